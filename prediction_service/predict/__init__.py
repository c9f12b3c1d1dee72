"""From a request's body to its prediction."""
