"""Both programs with their model in memory, asked in turns (decode.py)."""
