"""The base of errors that a command prints as one message."""


class ExpectedError(Exception):
    """An error outside the code; the message has the remedy."""
