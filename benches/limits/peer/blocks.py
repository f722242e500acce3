"""Blocks of llama.cpp's types; read by its Python as well, which has not our package."""

BLOCKS = {"F32": (1, 4), "Q4_0": (32, 18), "Q8_0": (32, 34), "Q6_K": (256, 210)}
"""Type -> (values, bytes) of a block."""
