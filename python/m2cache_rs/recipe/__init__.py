"""What is computed: recipes, who chose one, and what `STORE/profiles/` keeps for them."""
