#!/usr/bin/env bash
# Makes the databases of MLflow and Prefect, and a user for each. The postgres image runs this once,
# for an empty volume. To set the passwords again, run it again (docs/operations.md).
set -euo pipefail

for name in mlflow prefect; do
  psql --username "${POSTGRES_USER:-postgres}" --quiet --set ON_ERROR_STOP=1 --set "name=$name" \
    --set "password=$(cat "${SECRETS:-/run/secrets}/postgres_${name}_password")" <<'SQL'
SELECT format('CREATE USER %I', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER USER :"name" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done
