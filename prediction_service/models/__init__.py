"""Model packages on their way from the registry to a request worker."""
