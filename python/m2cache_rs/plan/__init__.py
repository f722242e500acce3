"""What a run will take and how fast it will be: budgets, bytes, expected speed. Nothing is opened."""
