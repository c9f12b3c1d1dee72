"""MLflow: runs, model versions, promotions and retention."""
