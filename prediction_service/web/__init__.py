"""What a browser or a client program reads: the form at /, and the API at /docs and /openapi.json."""
