"""Make the users of MLflow's server before it starts: `python -m config.mlflow.users DATABASE_URI`.

The administrator's password is MLFLOW_AUTH_ADMIN_PASSWORD, the one of `reader` is
MLFLOW_READER_PASSWORD, and so on. An existing user gets this password too. So a replaced secret, or
a database from another machine, locks nobody out.

The registered model is made too: the server answers 403 to all but the administrator who ask for a
model that does not exist.
"""

import os
import sys

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.server.auth import store
from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.permissions import MANAGE

from config.model_registry import MODEL_NAME

# `default_permission` in auth.ini lets each of them read. `worker` also changes what others made.
USERS = ("worker", "reader", "jupyter")
RESOURCES = ("experiment", "registered_model")


def make_model(database_uri: str) -> None:
    """Make the registered model, unless it exists, in the database of the server."""
    client = MlflowClient(tracking_uri=database_uri, registry_uri=database_uri)
    try:
        client.create_registered_model(MODEL_NAME)
    except MlflowException as err:
        if err.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def make_users() -> None:
    """Make each user, or set its password."""
    config = read_auth_config()
    admin = config.admin_username or ""
    passwords = {user: os.environ[f"MLFLOW_{user.upper()}_PASSWORD"] for user in USERS}
    store.init_db(config.database_uri)
    for user, password in {admin: config.admin_password or "", **passwords}.items():
        if store.has_user(user):
            store.update_user(user, password=password)
        else:
            store.create_user(user, password, is_admin=user == admin)
    for resource in RESOURCES:
        store.grant_user_permission("worker", resource, "*", MANAGE.name)


if __name__ == "__main__":
    make_model(sys.argv[1])
    make_users()
