"""Score records with a model and explain the predictions."""
