"""The commands of `python -m training`; each module imports what its commands need."""
