"""The addresses and credentials of the services that the generator calls. Flags override them."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One environment variable per field, in capitals."""

    # The prediction service that receives the traffic.
    prediction_address: str = "http://127.0.0.1:9696"

    # The API key for the prediction service, if it requires one.
    prediction_api_key: str = ""

    # The MLflow server with the traffic rows of the production run. Unused with --traffic.
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"

    # The credentials for the MLflow server, if it requires them. MLflow's clients read them too.
    mlflow_tracking_username: str = ""
    mlflow_tracking_password: str = ""

    @property
    def mlflow_auth(self) -> tuple[str, str] | None:
        """User and password for the MLflow server; None without a user."""
        user = self.mlflow_tracking_username
        return (user, self.mlflow_tracking_password) if user else None
