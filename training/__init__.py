"""From labelled rows to a registered, promoted model: one Prefect flow and its steps."""

from config.runtime.telemetry import turn_off

turn_off()
