"""What decode.py and capped.py share, and rooms for llama.cpp (`peer`) and for each (`inram`, `capped`)."""
