"""Settings of the generator; options of the command override them."""

from pydantic import Field, SecretStr

from config.runtime.settings import BaseSettings


class Settings(BaseSettings):
    """Addresses and credentials of the services that the generator talks to."""

    prediction_address: str = Field(
        "http://127.0.0.1:9696", description="Address of the prediction service."
    )
    prediction_api_key: SecretStr = Field(
        SecretStr(""), description="API key that the generator sends, if the service requires one."
    )
    mlflow_tracking_uri: str = Field(
        "http://127.0.0.1:5000",
        description="Address of MLflow, the source of the traffic rows if no file is named.",
    )
    mlflow_tracking_username: str = Field(
        "", description="User of MLflow, if it requires credentials."
    )
    mlflow_tracking_password: SecretStr = Field(
        SecretStr(""), description="Password of MLFLOW_TRACKING_USERNAME."
    )

    @property
    def mlflow_auth(self) -> tuple[str, str] | None:
        """User and password for MLflow, if it requires credentials."""
        user = self.mlflow_tracking_username
        return (user, self.mlflow_tracking_password.get_secret_value()) if user else None
