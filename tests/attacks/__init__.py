"""Hostile and torn files: every rule of docs/format.md has a file that breaks it, and a named error."""
