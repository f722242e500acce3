"""llama.cpp beside us: its build, its interface, files of its format."""
