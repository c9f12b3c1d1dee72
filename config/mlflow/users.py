"""Make the users of MLflow's server before it starts: `python config/mlflow/users.py`.

The administrator's password is MLFLOW_AUTH_ADMIN_PASSWORD, the one of `reader` is
MLFLOW_READER_PASSWORD, and so on. An existing user gets this password too. So a replaced secret, or
a database from another machine, locks nobody out.
"""

import os

from mlflow.server.auth import store
from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.permissions import MANAGE

# `default_permission` in auth.ini lets each of them read. `worker` also changes what others made.
USERS = ("worker", "reader", "jupyter")
RESOURCES = ("experiment", "registered_model")


def main() -> None:
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
    main()
