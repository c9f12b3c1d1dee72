"""Why rows cannot be used."""


class CensusError(Exception):
    """Census files, tables or rows cannot be used; the message says why and what to do."""


class CensusUnavailable(CensusError):
    """The census files are neither cached nor downloadable."""


class UntrainableRows(CensusError):
    """Valid rows that can make no model; the message has every reason and what to do."""
