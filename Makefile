# Start with `make demo` (this machine) or `make up` (containers), and `make test`.
# `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Spark takes 500 MB, so only the targets that need it install it.
DAILY := packages training prediction-service evidently-service stream-generator gcs jupyter dev-packages
CATEGORIES := $(DAILY) spark installer
SOURCES := config training prediction_service evidently_service stream_generator notebooks tests .ci
PIPENV_VERSION := 2026.10.3

# All caches stay inside this folder.
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export PIPENV_CACHE_DIR ?= $(CURDIR)/.cache/pipenv
export PRE_COMMIT_HOME ?= $(CURDIR)/.cache/pre-commit
export PYLINTHOME ?= $(CURDIR)/.cache/pylint
export MPLCONFIGDIR ?= $(CURDIR)/.cache/matplotlib
export PREFECT_HOME ?= $(CURDIR)/var/prefect
# uv does not compile modules. Python compiles each at its first import unless this is set.
unexport PYTHONDONTWRITEBYTECODE
export PIPENV_VENV_IN_PROJECT = 1
export PIPENV_IGNORE_VIRTUALENVS = 1
export PIPENV_NOSPIN = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help

# Each line `#: TEXT` below is a line of the help.
.PHONY: help
help:
	@sed -n 's/^#: //p' Makefile

LOCKED := $(PYTHON) config/lock/requirements Pipfile.lock
SYNC := $(BIN)/uv pip sync --python $(BIN)/python --require-hashes
# If rfc3987-syntax is installed, jsonschema imports it: one second for each start of Prefect.
# Jupyter requires it for a format that this project does not use.
WITHOUT := grep -v '^rfc3987-syntax'

# The sync removes unlocked packages and Spark; `make spark` installs Spark again.
$(VENV)/.locked: Pipfile.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "PYTHON: got $(PYTHON), expected Python 3.11, 3.12 or 3.13. Install one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "PYTHON: $(PYTHON) has no venv. On Debian: apt-get install python3-venv"; exit 1; }
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
#:   demo             the whole loop here. KEEP=1 leaves it up, RESUME=1 resumes,
#:                    CONTRACT=path/features.yaml takes another table
#:   up down logs ps  the stack in containers; S=relay: the logs of one service
#:   train            the training flow, with its own MLflow and Prefect
#:   jupyter          Jupyter Lab on port 8888; prints the address with its access token
#:   notebooks        run every notebook on a running demo; pages go to build/notebooks
#:   doctor           programs that this machine lacks, and their use
#: Work on it
#:   setup, lock      install Pipfile.lock and the pre-commit hooks; lock Pipfile again
#:   test-fast        unit tests without a server: 1 minute
#:   test             black --check, pylint, mypy, pytest: 6 minutes; COVERAGE=1 measures
#:   test-all         test, test-slow (demo, drills, notebooks, Spark), test-containers
#:   format, lint     format with black; black --check, pylint and mypy
#:   bench NAME=...   ablation capacity explanations false-alarms gate labels
#:     measurement promotion retraining scoring seeds serving shadow training
#:   fuzz soak drills hostile requests; load while parts fail; alerts for each incident
#:   audit            known vulnerabilities of the locked packages
#:   alerts, docs     write alert rules and runbooks; write docs/configuration.md
#:   screenshots      take the pictures of docs/tour.md from a running demo, with Chromium
#: Operate containers
#:   build, publish   build every image; push them to DOCKER_REPOSITORY
#:   backup, restore  write to var/backups; restore FROM=var/backups/...
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

# Tests of rules, parsing, journal, gate and verdict: no server, no training.
FAST := $(addprefix tests/,config/test_contract.py config/test_logs.py config/test_settings.py \
  evidently_service/test_judge.py evidently_service/test_monitoring_config.py \
  evidently_service/test_performance.py evidently_service/test_scores.py \
  evidently_service/test_segments.py evidently_service/test_window.py \
  prediction_service/test_app.py prediction_service/test_middleware.py \
  prediction_service/test_explanations.py prediction_service/test_journal.py \
  project/test_import_rules.py project/test_lock.py project/test_settings_documented.py \
  stream_generator/test_changes.py stream_generator/test_scenarios.py stream_generator/test_summary.py \
  stream_generator/test_traffic.py \
  training/test_calibration.py training/test_source.py training/test_policy.py \
  training/test_metrics.py training/test_gate.py training/test_assemble.py)

.PHONY: test-fast
test-fast: setup
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(FAST)

# The tests wait for servers half of the time. Lint uses the idle processors.
.PHONY: test
test: setup
	@$(MAKE) --no-print-directory --jobs 2 lint-beside pytest

# COVERAGE=1 measures branch coverage and fails below the minimum in pyproject.toml.
.PHONY: lint-beside pytest
lint-beside:
	@nice -n 19 $(MAKE) --no-print-directory --jobs 1 lint PYLINT_OPTIONS="--jobs 1"

pytest:
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(if $(COVERAGE),--cov)

# The longest files first: at the end one processor would wait for the other.
.PHONY: test-slow
test-slow: setup spark
	$(BIN)/pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	  tests/training $(filter-out tests/training/ tests/__pycache__/,$(wildcard tests/*/))

.PHONY: test-containers
test-containers: setup
	$(BIN)/pytest -m containers tests/containers

.PHONY: test-all
test-all: test test-slow test-containers

.PHONY: train
train: setup
	$(BIN)/python -m config.local_stack.demo --only-train

# A kernel starts in the notebook's folder, so it needs absolute paths to code and data.
notebooks jupyter: export PYTHONPATH = $(CURDIR)
notebooks jupyter: export DATA_DIR ?= $(CURDIR)/data
notebooks jupyter: export JUPYTER_CONFIG_DIR = $(CURDIR)/.cache/jupyter
notebooks jupyter: export JUPYTER_DATA_DIR = $(CURDIR)/.cache/jupyter
notebooks jupyter: export IPYTHONDIR = $(CURDIR)/.cache/ipython
notebooks jupyter: export PREDICTION_LOG ?= $(CURDIR)/build/notebooks/predictions.jsonl

# Without MLFLOW_TRACKING_URI, the settings of a demo that runs (make demo KEEP=1).
DEMO_RUNS := kill -0 $$(cat build/demo/logs/supervisord.pid 2>/dev/null) 2>/dev/null
DEMO := if [ -z "$$MLFLOW_TRACKING_URI" ] && $(DEMO_RUNS); then . var/demo/settings; fi 2>/dev/null

.PHONY: notebooks
notebooks: setup
	@mkdir -p build/notebooks
	@$(DEMO); set -e; $(BIN)/python -m training history >/dev/null; \
	if [ -z "$$MONGODB_ADDRESS" ]; then \
	  $(BIN)/python -m prediction_service.journal export >build/notebooks/predictions.jsonl; \
	  [ -s "$$PREDICTION_LOG" ] || \
	    { echo "PREDICTION_LOG: no predictions; got $$PREDICTION_LOG. Run make demo KEEP=1."; exit 1; }; \
	fi; \
	$(BIN)/jupyter nbconvert --log-level ERROR --execute --to html --output-dir build/notebooks \
	  --HTMLExporter.require_js_url= --HTMLExporter.mathjax_url= notebooks/*.ipynb

.PHONY: jupyter
jupyter: setup
	@$(DEMO); exec $(BIN)/jupyter lab --ip 127.0.0.1 --port 8888 --notebook-dir notebooks

BENCHMARKS := $(subst _,-,$(patsubst tests/benchmarks/benchmark_%.py,%,$(wildcard tests/benchmarks/benchmark_*.py)))

.PHONY: bench
bench: setup $(if $(filter scoring,$(NAME)),spark)
	@[ -n "$(filter $(NAME),$(BENCHMARKS))" ] || { echo "NAME: got '$(NAME)', expected one of: $(BENCHMARKS)"; exit 2; }
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

.PHONY: alerts
alerts: setup
	$(BIN)/python -m config.grafana.build

# --- containers ---------------------------------------------------------------------------------

COMPOSE := docker compose
# For the labels of images: the tag of this commit, if any, and the commit.
export REVISION ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
export VERSION ?= $(shell git describe --tags --match 'v*' --always --dirty 2>/dev/null)

.PHONY: engine
engine:
	@$(COMPOSE) version >/dev/null 2>&1 || \
	  { echo "Docker Engine 25 or later with Compose: not found. Without Docker, run make demo"; exit 1; }

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
	@[ -n "$(ID)" ] || { echo "ID: not set. Run make forget ID=..."; exit 2; }
	@if $(DEMO_RUNS); then . var/demo/settings; in_part() { shift; $(BIN)/python "$$@"; }; \
	else in_part() { part=$$1; shift; $(COMPOSE) exec -T "$$part" python "$$@"; }; fi; \
	set -e; \
	in_part relay -m prediction_service.forget "$(ID)"; \
	in_part measure -m evidently_service.forget "$(ID)"; \
	in_part worker -m training forget "$(ID)"
