"""How good a store's text model is, and what a token costs in bytes."""
