"""HTTP around the predictions: what every request passes through."""
