# `make` installs the pinned packages into .venv and rebuilds everything; `make test` and `make lint` check it.
.PHONY: all run install test test-fast lint bench readme clean
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
CORES ?= 8
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

all: run

run: $(VENV)/.installed
	snakemake --cores $(CORES)

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(or $(shell command -v $(PYTHON)),python3) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet --progress-bar off -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check --quiet --progress-bar off -r requirements-dev.txt
	touch $@

test: $(VENV)/.installed-dev
	python -m pytest

# Only the fast tests, in about a minute.
test-fast: $(VENV)/.installed-dev
	python -m pytest -m "not slow"

lint: $(VENV)/.installed-dev
	ruff check . && ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

# Speed against the libraries, one thread, in minutes: results/bench.json and results/bench.md.
bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=workflow:tests/unit python tests/perf/bench_sweep.py results

# The table in README.md, from results/claims.json.
readme: $(VENV)/.installed
	PYTHONPATH=workflow python -m bearings.evidence.readme README.md results/claims.json

clean:
	rm -rf results/*/seed-*/{world,models,prompts,activations,directions,interventions,measures} logs benchmarks .snakemake
