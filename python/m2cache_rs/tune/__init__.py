"""Which neurons get which bits: recipes found on a text, with what they cost (docs/recipes.md)."""
