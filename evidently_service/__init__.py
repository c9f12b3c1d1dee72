"""Receives predictions and labels, measures drift and quality with Evidently, and says so.

The relay posts events -> `app` -> `window` (SQLite) -> `measure`, a process of its own, compares
the window with the production version's reference -> `window` again -> `GET /drift`, `/report`
and `/metrics`.
"""

from config.runtime.telemetry import turn_off

turn_off()
