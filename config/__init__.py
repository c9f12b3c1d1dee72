"""What all parts share: the feature contract, the events, names in MLflow and `runtime`."""
