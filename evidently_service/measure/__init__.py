"""Compare the current window with the reference data, on a schedule."""
