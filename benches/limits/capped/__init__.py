"""One program after the other under a cap, and the disk around it (capped.py, striped.py)."""
