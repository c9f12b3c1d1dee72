"""What every part agrees on: the feature contract, the events and how settings are read.

Imports the standard library, PyYAML and msgspec only, so that each service can afford it.
"""
