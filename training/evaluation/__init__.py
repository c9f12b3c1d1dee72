"""Metrics, the promotion gate and the model card."""
