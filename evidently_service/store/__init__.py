"""Keep events, measurements and reports on disk."""
