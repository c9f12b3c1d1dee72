# Two commands to start with: `make demo` and `make test`. `make help` lists all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CATEGORIES := packages training prediction-service evidently-service stream-generator dev-packages
SOURCES := config training prediction_service evidently_service stream_generator tests .ci
PIPENV_VERSION := 2026.10.3

# Nothing is written outside this folder.
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export PIPENV_CACHE_DIR ?= $(CURDIR)/.cache/pipenv
export PRE_COMMIT_HOME ?= $(CURDIR)/.cache/pre-commit
export PYLINTHOME ?= $(CURDIR)/.cache/pylint
export MPLCONFIGDIR ?= $(CURDIR)/.cache/matplotlib
export PREFECT_HOME ?= $(CURDIR)/var/prefect
export PIPENV_VENV_IN_PROJECT = 1
export PIPENV_IGNORE_VIRTUALENVS = 1
export PIPENV_NOSPIN = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 14

$(VENV)/.locked: Pipfile.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: install one and name it, make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv: on Debian, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet pipenv==$(PIPENV_VERSION)
	$(BIN)/pipenv sync --quiet --categories "$(CATEGORIES)"
	@touch $@

.PHONY: setup
setup: $(VENV)/.locked  ## environment from Pipfile.lock, and the pre-commit hooks
	@mkdir -p var .cache
	@! git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/pre-commit install >/dev/null

.PHONY: lock
lock: $(VENV)/.locked  ## resolve Pipfile anew into Pipfile.lock
	$(BIN)/pipenv lock --categories "$(CATEGORIES)"
	$(BIN)/python .ci/clean_lock.py

.PHONY: format
format: setup  ## black, writing
	$(BIN)/black --quiet .

.PHONY: mypy
mypy: setup
	$(BIN)/mypy $(SOURCES)

.PHONY: lint
lint: setup mypy  ## black --check, pylint and mypy
	$(BIN)/black --check --quiet .
	$(BIN)/pylint $(SOURCES)

.PHONY: test
test: lint  ## black --check, pylint, mypy and pytest
	$(BIN)/pytest

.PHONY: train
train: setup  ## the training flow with MLflow and Prefect of its own
	$(BIN)/python -m stream_generator.demo --only-train

.PHONY: demo
demo: setup  ## the whole loop on this machine; KEEP=1 leaves it running
	$(BIN)/python -m stream_generator.demo $(if $(KEEP),--keep)
