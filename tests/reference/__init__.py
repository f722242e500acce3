"""A plain numpy twin of what the Rust core computes: the number format and the decoder, slow and readable.

It shares no code with the core; of the package it uses only the architecture spec and the rope
frequencies, which tests hold against transformers directly.
"""
