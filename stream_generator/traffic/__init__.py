"""Provide the rows to send: read them, order them by a seed, change them by a scenario."""
