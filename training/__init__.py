"""From the census files to a registered, promoted model: one Prefect flow and its steps."""
