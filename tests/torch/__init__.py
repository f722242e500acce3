"""Tests that need torch and transformers: make test-torch."""
