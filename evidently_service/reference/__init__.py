"""Read what the window is compared with: reference data and monitoring file."""
