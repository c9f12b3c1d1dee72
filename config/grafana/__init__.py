"""What Grafana shows and notifies of, as code: `make dashboards` writes the files from it.

A developer's tool: no image has this folder's Python, and no part of the project imports it.
"""
