"""What neurons do on a text, and predictors of which matter; nothing but `train` imports torch."""
