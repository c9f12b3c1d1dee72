"""Decide which columns have drifted, with thresholds for a budget of false alarms."""
