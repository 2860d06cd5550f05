# Targets are listed by `make` alone. PYTHON=/path/to/python3.x picks the interpreter of a new .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Tests that need no other's ground run side by side; one file stays in one process, so its servers start once.
PYTEST := $(BIN)/pytest -n auto --dist loadfile

MINIMUM := 3.11
STORE ?= ./bucketry-data
LISTEN ?= 127.0.0.1:5000

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup dev serve test lint format bench conformance tools pins clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  %-18s %s\n", $$1, $$2 }'

setup: $(VENV)/.setup  ## make .venv and install bucketry into it: .venv/bin/bucketry
	@echo "bucketry is installed: $(BIN)/bucketry"

dev: $(VENV)/.dev  ## setup, and what the tests and checks need

serve: setup  ## serve ./bucketry-data on 127.0.0.1:5000 (STORE=s3://bucket/prefix LISTEN=host:port)
	$(BIN)/bucketry serve --store $(STORE) --listen $(LISTEN)

test: dev  ## run the tests (PYTEST_ARGS="-k name")
	$(PYTEST) $(PYTEST_ARGS)

lint: dev  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev  ## compare with a peer on this machine (see bench/)
	$(BIN)/python -m bench

conformance: dev  ## run the official OCI conformance program on every store, and show what it says
	$(BIN)/pytest tests/spec/test_conformance.py --log-cli-level=INFO $(PYTEST_ARGS)

tools:  ## install the clients that the tests drive (Debian packages as root, Go programs into a cache)
	.ci/tools

pins:  ## renew requirements/*.txt from pyproject.toml and requirements/*.in
	$(PYTHON) requirements/pins.py

clean:  ## remove what the other targets made, but no data
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(MINIMUM)".split("."))))' 2>/dev/null || { \
	  echo "bucketry needs Python $(MINIMUM) or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.setup: pyproject.toml requirements/build.txt requirements/runtime.txt src/bucketry/__init__.py | $(BIN)/python
	$(BIN)/python -m pip install -q -r requirements/build.txt -r requirements/runtime.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.setup requirements/dev.txt
	$(BIN)/python -m pip install -q -r requirements/dev.txt
	@touch $@
