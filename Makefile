# Start with `make demo` (this machine) or `make up` (containers), and `make test`.
# `make help` lists all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CATEGORIES := packages training prediction-service evidently-service stream-generator gcs jupyter spark dev-packages
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
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 20

# Spark's 500 MB are installed for the targets that need them.
DAILY := $(filter-out spark,$(CATEGORIES))

$(VENV)/.locked: Pipfile.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: install one and name it, make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv: on Debian, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet pipenv==$(PIPENV_VERSION)
	$(BIN)/pipenv sync --quiet --categories "$(DAILY)"
	@touch $@

$(VENV)/.spark: $(VENV)/.locked
	$(BIN)/pipenv sync --quiet --categories spark
	@touch $@

.PHONY: spark
spark: setup $(VENV)/.spark  ## adds Spark to the environment: search and scoring past one machine

.PHONY: setup
setup: $(VENV)/.locked  ## environment from Pipfile.lock, and the pre-commit hooks
	@mkdir -p var .cache
	@! git rev-parse --git-dir >/dev/null 2>&1 || $(BIN)/pre-commit install >/dev/null

.PHONY: lock
lock: $(VENV)/.locked  ## resolve Pipfile anew into Pipfile.lock
	$(BIN)/pipenv lock --categories "$(CATEGORIES)"
	$(BIN)/python .ci/clean_lock.py

.PHONY: audit
audit: setup  ## known vulnerabilities in what the lock names
	@mkdir -p build
	$(BIN)/pipenv requirements --hash --categories "$(CATEGORIES)" >build/requirements.txt
	$(BIN)/pip-audit --require-hashes --disable-pip --requirement build/requirements.txt

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
test: lint  ## black --check, pylint, mypy and pytest: 8 minutes
	$(BIN)/pytest --numprocesses 2 --dist loadfile

.PHONY: test-slow
test-slow: setup spark  ## the demo, drills, short benchmarks, notebooks, Spark, the dashboards: 20 minutes
	$(BIN)/pytest -m slow

.PHONY: test-all
test-all: test test-slow test-containers  ## everything: 40 minutes

.PHONY: train
train: setup  ## the training flow with MLflow and Prefect of its own
	$(BIN)/python -m stream_generator.demo --only-train

# A kernel starts in the notebook's folder: it is told where the code and the data are.
notebooks jupyter: export PYTHONPATH = $(CURDIR)
notebooks jupyter: export DATA_DIR ?= $(CURDIR)/data
notebooks jupyter: export JUPYTER_CONFIG_DIR = $(CURDIR)/.cache/jupyter
notebooks jupyter: export JUPYTER_DATA_DIR = $(CURDIR)/.cache/jupyter
notebooks jupyter: export IPYTHONDIR = $(CURDIR)/.cache/ipython
notebooks jupyter: export PREDICTION_LOG ?= $(CURDIR)/build/notebooks/predictions.jsonl

.PHONY: notebooks
notebooks: setup  ## run every notebook against a running stack, into build/notebooks
	@mkdir -p build/notebooks
	@[ -n "$(MONGODB_ADDRESS)" ] || $(BIN)/python -m prediction_service.journal export >build/notebooks/predictions.jsonl
	$(BIN)/jupyter nbconvert --log-level ERROR --execute --to html --output-dir build/notebooks \
	  --HTMLExporter.require_js_url= --HTMLExporter.mathjax_url= notebooks/*.ipynb

.PHONY: jupyter
jupyter: setup  ## Jupyter Lab on port 8888; the address with its token is printed
	$(BIN)/jupyter lab --ip 127.0.0.1 --port 8888 --notebook-dir notebooks

.PHONY: benchmark-training
benchmark-training: setup  ## quality and time of training, beside the usual way: 5 minutes
	$(BIN)/python -m tests.benchmarks.benchmark_training

.PHONY: benchmark-scoring
benchmark-scoring: setup spark  ## rows a second that Spark scores, by cores: 5 minutes
	$(BIN)/python -m tests.benchmarks.benchmark_scoring

.PHONY: benchmark-measurement
benchmark-measurement: setup  ## what one measurement of the window costs, beside Evidently's report: 1 minute
	$(BIN)/python -m tests.benchmarks.benchmark_measurement

.PHONY: benchmark-monitoring
benchmark-monitoring: setup  ## predictions a second that the monitoring takes in, beside what is emitted; freshness; memory: 4 minutes
	$(BIN)/python -m tests.benchmarks.benchmark_monitoring

.PHONY: fuzz
fuzz: setup  ## 100,000 hostile requests: none may be answered 5xx or hang: 2 minutes
	$(BIN)/python -m tests.fuzz.fuzz

.PHONY: soak
soak: setup  ## load while sinks fall, processes are killed, the disk fills; then everything is counted: 4 minutes
	$(BIN)/python -m tests.soak.soak

.PHONY: drills
drills: setup  ## what happens in the world, and which alerts fire for it; needs prometheus: 7 minutes
	$(BIN)/python -m tests.drills.drills

.PHONY: false-alarms
false-alarms: setup  ## drift alarms in months without drift, and how soon shifts are seen: 12 minutes
	$(BIN)/python -m tests.benchmarks.false_alarms

.PHONY: benchmark-retraining
benchmark-retraining: setup  ## what a training after drift brings, and costs on the census: 1 minute
	$(BIN)/python -m tests.benchmarks.benchmark_retraining

.PHONY: benchmark-serving
benchmark-serving: setup  ## a prediction beside an empty route and MLflow's scoring server: 4 minutes
	$(BIN)/python -W ignore -m tests.benchmarks.benchmark_serving

.PHONY: benchmark-batch
benchmark-batch: setup  ## lists of 1000 records beside MLflow's scoring server: 2 minutes
	$(BIN)/python -W ignore -m tests.benchmarks.benchmark_batch

.PHONY: benchmark-explanations
benchmark-explanations: setup  ## what explanations cost in time, memory and disk: 1 minute
	$(BIN)/python -W ignore -m tests.benchmarks.benchmark_explanations

.PHONY: ablation
ablation: setup  ## what SMOTE, the trees and the protected columns are worth: 7 minutes
	$(BIN)/python -m tests.benchmarks.ablation

.PHONY: demo
demo: setup  ## the whole loop on this machine; KEEP=1 leaves it running
	$(BIN)/python -m stream_generator.demo $(if $(KEEP),--keep)

.PHONY: screenshots
screenshots: setup  ## the pictures of docs/tour.md, of a running demo; needs Chromium
	$(BIN)/python -m tests.end_to_end.screenshots

.PHONY: dashboards
dashboards: setup  ## write Grafana's dashboards, the alert rules and their runbooks anew
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
up: engine .env secrets  ## the stack in containers; the first start trains a model
	$(COMPOSE) up --build --detach --wait
	@$(COMPOSE) exec -T worker with-secrets python -m training train --data auto --unless-production
	@config/operate/addresses

.env:
	cp .env.example .env

.PHONY: secrets
secrets:  ## passwords and tokens in var/secrets, where there are none yet
	@config/operate/secrets

.PHONY: down
down: engine  ## stop the containers; the volumes stay
	$(COMPOSE) --profile '*' down

.PHONY: logs
logs: engine  ## follow the logs; S=relay for those of one service
	$(COMPOSE) logs --follow --tail 100 $(S)

.PHONY: ps
ps: engine  ## what runs, how well, what it uses, and where to open it
	@$(COMPOSE) ps --format 'table {{.Service}}\t{{.Status}}'
	@docker stats --no-stream --format 'table {{.Name}}\t{{.MemUsage}}\t{{.CPUPerc}}' $$($(COMPOSE) ps --quiet)
	@config/operate/addresses

.PHONY: build
build: engine secrets  ## every image of the project
	$(COMPOSE) --profile '*' build

.PHONY: publish
publish: secrets  ## build and push the images to DOCKER_REPOSITORY, tagged with version and commit
	@config/operate/publish

.PHONY: backup
backup:  ## MLflow, its bucket's emulator, Prefect, MongoDB, training data into var/backups
	@config/operate/backup

.PHONY: restore
restore:  ## put a backup in the place of what is there: FROM=var/backups/...
	@config/operate/restore "$(FROM)"

.PHONY: forget
forget:  ## erase one prediction everywhere it is kept: ID=...
	@[ -n "$(ID)" ] || { echo "which prediction? make forget ID=..."; exit 2; }
	$(COMPOSE) exec -T relay with-secrets python -m prediction_service.forget "$(ID)"
	$(COMPOSE) exec -T measure with-secrets python -m evidently_service.forget "$(ID)"
	$(COMPOSE) exec -T worker with-secrets python -m training forget "$(ID)"

.PHONY: test-containers
test-containers: setup  ## the stack in real containers; needs Docker
	$(BIN)/pytest -m containers tests/containers
