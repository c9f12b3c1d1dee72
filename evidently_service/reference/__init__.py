"""Read the reference data of the production version, and the monitoring file."""
