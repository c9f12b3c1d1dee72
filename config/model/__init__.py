"""A version's package: its files, and the model in memory. Prediction and monitoring load it."""
