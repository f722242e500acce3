"""What `capped.py` is made of."""
