"""Ship journalled events to the sinks: `python -m prediction_service.relay`."""
