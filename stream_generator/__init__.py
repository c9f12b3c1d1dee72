"""Simulated census planners: they ask for predictions and, later, tell what was true.

Meets the other parts over HTTP only: rows from the registry, requests to the prediction service.
"""
