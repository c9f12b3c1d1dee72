"""Simulate clients: request predictions and send the true labels later.

`traffic` provides the rows, `client` sends them. The generator meets the other parts over HTTP
only: it reads rows from MLflow and sends requests to the prediction service.
"""
