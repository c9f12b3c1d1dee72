"""Receive predictions and labels, measure drift and quality with Evidently, and show both.

The relay posts events -> `api` -> `store` (SQLite) -> `measure`, a process of its own, compares the
window with the `reference` data and asks `verdict` -> `store` -> `GET /drift`, `/report` and
`/metrics`.
"""

from config.runtime.telemetry import turn_off

turn_off()
