# Start with `make demo` (this machine) or `make up` (containers), and `make test`.
# `make help` lists all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Spark's 500 MB are installed for the targets that need them.
DAILY := packages training prediction-service evidently-service stream-generator gcs jupyter dev-packages
CATEGORIES := $(DAILY) spark installer
SOURCES := config training prediction_service evidently_service stream_generator tests .ci
PIPENV_VERSION := 2026.10.3

# Nothing is written outside this folder.
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export PIPENV_CACHE_DIR ?= $(CURDIR)/.cache/pipenv
export PRE_COMMIT_HOME ?= $(CURDIR)/.cache/pre-commit
export PYLINTHOME ?= $(CURDIR)/.cache/pylint
export MPLCONFIGDIR ?= $(CURDIR)/.cache/matplotlib
export PREFECT_HOME ?= $(CURDIR)/var/prefect
# uv compiles nothing; what is imported is compiled once, as Python does unless this is set.
unexport PYTHONDONTWRITEBYTECODE
export PIPENV_VENV_IN_PROJECT = 1
export PIPENV_IGNORE_VIRTUALENVS = 1
export PIPENV_NOSPIN = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help

# A line `#: NAME  TEXT` below is one line of the help.
.PHONY: help
help:
	@sed -n 's/^#: //p' Makefile

LOCKED := $(PYTHON) config/lock/requirements Pipfile.lock
SYNC := $(BIN)/uv pip sync --python $(BIN)/python --require-hashes
# jsonschema imports it wherever it is installed, which takes a second of each start of Prefect.
# Jupyter names it for a format that nothing here uses.
WITHOUT := grep -v '^rfc3987-syntax'

# What is no longer locked is removed, Spark too: `make spark` adds it again.
$(VENV)/.locked: Pipfile.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: install one and name it, make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv: on Debian, apt-get install python3-venv"; exit 1; }
	@echo "setup: Python environment and uv in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(LOCKED) installer >$(VENV)/requirements.txt
	@$(BIN)/pip install --quiet --require-hashes --requirement $(VENV)/requirements.txt
	@echo "setup: the packages of Pipfile.lock"
	@$(LOCKED) $(DAILY) | $(WITHOUT) >$(VENV)/requirements.txt
	@$(SYNC) $(VENV)/requirements.txt
	@rm -f $(VENV)/.spark
	@touch $@

$(VENV)/.spark: $(VENV)/.locked
	@$(LOCKED) $(DAILY) spark | $(WITHOUT) >$(VENV)/requirements.txt
	@$(SYNC) $(VENV)/requirements.txt
	@touch $@

#: Use it
#:   demo             the whole loop on this machine; KEEP=1 leaves it up, RESUME=1 goes on
#:   up down logs ps  the stack in containers; S=relay: the logs of one service
#:   train            the training flow with MLflow and Prefect of its own
#:   jupyter          Jupyter Lab on port 8888; the address with its token is printed
#:   notebooks        run every notebook against a running stack, into build/notebooks
#:   doctor           what this machine lacks, and what needs it
#: Work on it
#:   setup, lock      packages of Pipfile.lock, and the pre-commit hooks; resolve Pipfile
#:   test-fast        unit tests, no server: 1 minute
#:   test             black --check, pylint, mypy and pytest; COVERAGE=1: 5 minutes
#:   test-all         also test-slow (demo, drills, notebooks, Spark) and test-containers
#:   format, lint     black, writing; black --check, pylint and mypy
#:   bench NAME=...   measure ablation, batch, explanations, false-alarms, measurement,
#:                    monitoring, retraining, scoring, serving or training
#:   fuzz soak drills hostile requests; load while parts die; which alerts fire for what
#:   audit            known vulnerabilities in what the lock names
#:   dashboards       write Grafana's dashboards, the alert rules and their runbooks
#:   screenshots      the pictures of docs/tour.md, of a running demo; needs Chromium
#: Operate containers
#:   build, publish   every image; push them to DOCKER_REPOSITORY
#:   backup, restore  into var/backups; FROM=var/backups/...
#:   forget ID=...    erase one prediction everywhere

.PHONY: spark
spark: setup $(VENV)/.spark

.PHONY: setup
setup: $(VENV)/.locked
	@mkdir -p var .cache
	@! git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/pre-commit install >/dev/null

.PHONY: doctor
doctor:
	@$(PYTHON) config/operate/doctor

.PHONY: lock
lock: $(VENV)/.locked
	$(BIN)/uv tool run --from pipenv==$(PIPENV_VERSION) pipenv lock --categories "$(CATEGORIES)"
	$(BIN)/python .ci/clean_lock.py

.PHONY: audit
audit: setup
	@mkdir -p build
	$(LOCKED) $(CATEGORIES) >build/requirements.txt
	$(BIN)/pip-audit --require-hashes --disable-pip --requirement build/requirements.txt

.PHONY: format
format: setup
	$(BIN)/black --quiet .

.PHONY: black mypy pylint lint
black: setup
	$(BIN)/black --check --quiet .

mypy: setup
	$(BIN)/mypy $(SOURCES)

pylint: setup
	$(BIN)/pylint $(PYLINT_OPTIONS) $(SOURCES)

lint: black mypy pylint

# Rules, parsing, journal, gate and verdict: what starts no server and trains no model.
FAST := $(addprefix tests/,config/test_contract.py config/test_logs.py config/test_settings.py \
  evidently_service/test_judgement.py evidently_service/test_monitoring.py \
  evidently_service/test_performance.py evidently_service/test_scores.py \
  evidently_service/test_segments.py evidently_service/test_window.py \
  prediction_service/test_app.py prediction_service/test_entrance.py \
  prediction_service/test_explanations.py prediction_service/test_journal.py \
  project/test_import_rules.py project/test_lock.py project/test_settings_documented.py \
  stream_generator/test_scenarios.py stream_generator/test_summary.py stream_generator/test_traffic.py \
  training/test_calibration.py training/test_census.py training/test_policy.py \
  training/test_metrics.py training/test_gate.py training/test_assemble.py)

.PHONY: test-fast
test-fast: setup
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(FAST)

# Half of the time the tests wait for servers: lint uses what they leave of the processors.
.PHONY: test
test: setup
	@$(MAKE) --no-print-directory --jobs 2 lint-beside pytest

# COVERAGE=1 measures branch coverage, and fails below the share in pyproject.toml.
.PHONY: lint-beside pytest
lint-beside:
	@nice -n 19 $(MAKE) --no-print-directory --jobs 1 lint PYLINT_OPTIONS="--jobs 1"

pytest:
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(if $(COVERAGE),--cov)

.PHONY: test-slow
test-slow: setup spark
	$(BIN)/pytest -m slow --numprocesses 2 --dist loadfile

.PHONY: test-containers
test-containers: setup
	$(BIN)/pytest -m containers tests/containers

.PHONY: test-all
test-all: test test-slow test-containers

.PHONY: train
train: setup
	$(BIN)/python -m config.local_stack.demo --only-train

# A kernel starts in the notebook's folder: it is told where the code and the data are.
notebooks jupyter: export PYTHONPATH = $(CURDIR)
notebooks jupyter: export DATA_DIR ?= $(CURDIR)/data
notebooks jupyter: export JUPYTER_CONFIG_DIR = $(CURDIR)/.cache/jupyter
notebooks jupyter: export JUPYTER_DATA_DIR = $(CURDIR)/.cache/jupyter
notebooks jupyter: export IPYTHONDIR = $(CURDIR)/.cache/ipython
notebooks jupyter: export PREDICTION_LOG ?= $(CURDIR)/build/notebooks/predictions.jsonl

.PHONY: notebooks
notebooks: setup
	@mkdir -p build/notebooks
	@[ -n "$(MONGODB_ADDRESS)" ] || $(BIN)/python -m prediction_service.journal export >build/notebooks/predictions.jsonl
	$(BIN)/jupyter nbconvert --log-level ERROR --execute --to html --output-dir build/notebooks \
	  --HTMLExporter.require_js_url= --HTMLExporter.mathjax_url= notebooks/*.ipynb

.PHONY: jupyter
jupyter: setup
	$(BIN)/jupyter lab --ip 127.0.0.1 --port 8888 --notebook-dir notebooks

BENCHMARKS := $(subst _,-,$(patsubst tests/benchmarks/benchmark_%.py,%,$(wildcard tests/benchmarks/benchmark_*.py)))

.PHONY: bench
bench: setup $(if $(filter scoring,$(NAME)),spark)
	@[ -n "$(filter $(NAME),$(BENCHMARKS))" ] || { echo "make bench NAME=...: one of $(BENCHMARKS)"; exit 2; }
	$(BIN)/python -W ignore -m tests.benchmarks.benchmark_$(subst -,_,$(NAME))

.PHONY: fuzz
fuzz: setup
	$(BIN)/python -m tests.fuzz.fuzz

.PHONY: soak
soak: setup
	$(BIN)/python -m tests.soak.soak

.PHONY: drills
drills: setup
	$(BIN)/python -m tests.drills.drills

.PHONY: demo
demo: setup
	$(BIN)/python -m config.local_stack.demo $(if $(KEEP),--keep) $(if $(RESUME),--resume)

.PHONY: screenshots
screenshots: setup
	$(BIN)/python -m tests.end_to_end.screenshots

.PHONY: docs
docs: setup
	$(BIN)/python .ci/write_configuration

.PHONY: dashboards
dashboards: setup
	$(BIN)/python -m config.grafana.build

# --- containers ---------------------------------------------------------------------------------

COMPOSE := docker compose
# What an image says of itself: the tag if this commit has one, and the commit.
export REVISION ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
export VERSION ?= $(shell git describe --tags --match 'v*' --always --dirty 2>/dev/null)

.PHONY: engine
engine:
	@$(COMPOSE) version >/dev/null 2>&1 || \
	  { echo "needs Docker Engine 25 or later with Compose; without Docker: make demo"; exit 1; }

.PHONY: up
up: engine .env secrets
	$(COMPOSE) up --build --detach --wait
	@$(COMPOSE) exec -T worker python -m training train --data auto --unless-production
	@config/operate/addresses

.env:
	cp .env.example .env

.PHONY: secrets
secrets:
	@config/operate/secrets

.PHONY: down
down: engine
	$(COMPOSE) --profile '*' down

.PHONY: logs
logs: engine
	$(COMPOSE) logs --follow --tail 100 $(S)

.PHONY: ps
ps: engine
	@$(COMPOSE) ps --format 'table {{.Service}}\t{{.Status}}'
	@docker stats --no-stream --format 'table {{.Name}}\t{{.MemUsage}}\t{{.CPUPerc}}' $$($(COMPOSE) ps --quiet)
	@config/operate/addresses

.PHONY: build
build: engine secrets
	$(COMPOSE) --profile '*' build

.PHONY: publish
publish: secrets
	@config/operate/publish

.PHONY: backup
backup:
	@config/operate/backup

.PHONY: restore
restore:
	@config/operate/restore "$(FROM)"

.PHONY: forget
forget:
	@[ -n "$(ID)" ] || { echo "which prediction? make forget ID=..."; exit 2; }
	$(COMPOSE) exec -T relay python -m prediction_service.forget "$(ID)"
	$(COMPOSE) exec -T measure python -m evidently_service.forget "$(ID)"
	$(COMPOSE) exec -T worker python -m training forget "$(ID)"
