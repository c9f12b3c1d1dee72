"""What people read in a browser: the form at `/` and the API documentation at `/docs`."""
