"""Running a store: the decoder, its CPU backend, sampling, text, and the public Model."""
