"""Where the generator's counterparts are; flags of the command override these."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable per field, in capitals."""

    # The prediction service that gets the traffic.
    prediction_address: str = "http://127.0.0.1:9696"

    # The API key to ask it with, where it wants one.
    prediction_api_key: str = ""

    # The MLflow server whose production run holds the traffic rows, if no file is named.
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"

    # Who asks, where the server wants to know; MLflow's own clients read the same variables.
    mlflow_tracking_username: str = ""
    mlflow_tracking_password: str = ""

    @property
    def mlflow_auth(self) -> tuple[str, str] | None:
        """User and password for the MLflow server, if it wants them."""
        user = self.mlflow_tracking_username
        return (user, self.mlflow_tracking_password) if user else None
