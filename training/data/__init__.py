"""Rows: where they come from, how they are checked and kept, and which of them train a model."""
