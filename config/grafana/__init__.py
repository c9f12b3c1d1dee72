"""Grafana's dashboards, and the alert rules of Grafana and Prometheus.

The JSON files in `dashboards` are the source of the dashboards. To change one, edit it in Grafana,
save its JSON to a file and replace the file here. Set `id` to null, and remove values of variables
from `current`. `make alerts` writes the rest from `alerts.py`: the rules, `runbooks.md` and
`runbooks.json`.

No image contains this package, and no other package imports it.
"""
