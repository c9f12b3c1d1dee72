"""Send rows to the prediction service and sum up the outcomes."""
