"""Serve the HTTP side: receive events, show the status page, reports and metrics."""
