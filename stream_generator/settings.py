"""Where the generator's counterparts are; flags of the command override these."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable per field, in capitals."""

    # The prediction service that gets the traffic.
    prediction_address: str = "http://127.0.0.1:9696"

    # The MLflow server whose production run holds the traffic rows, if no file is named.
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"
