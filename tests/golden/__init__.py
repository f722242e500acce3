"""Outputs of transformers, recorded by make.py, so that tests need no torch."""
