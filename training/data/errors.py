"""Why rows cannot be used."""

from training.errors import ExpectedError


class TableError(ExpectedError):
    """A file or a frame is not a table with the contract's columns; the message has the remedy."""


class EmptyTable(TableError):
    """A file has columns and no rows."""


class SourceError(ExpectedError):
    """A source of rows or its description cannot be used; the message has the remedy."""


class SourceUnavailable(SourceError):
    """The source's files are neither cached nor downloadable."""


class UntrainableRows(SourceError):
    """Valid rows that can make no model; the message has every reason and what to do."""
