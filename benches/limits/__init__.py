"""What `capped.py` and `decode.py` are made of."""
