"""Send rows to the prediction service, send their labels later, and count the outcomes."""
