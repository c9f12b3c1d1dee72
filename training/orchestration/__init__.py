"""Prefect flows, their tasks and the worker that runs them."""
