# Two commands do everything: `make demo` and `make test`. PIP_ARGS passes anything on to pip (a CPU wheel index, a mirror).
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

.PHONY: setup setup-dev demo test test-all lint bench docs clean

setup: $(VENV)/.core
setup-dev: $(VENV)/.dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "morphogen needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing morphogen and what it needs (PyTorch is the large part) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core pyproject.toml constraints.txt
	@echo "installing what the tests need ..."
	$(PIP) -e '.[dev]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/morphogen demo --out demo --force

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2

test-all: $(VENV)/.dev lint
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/pyright
	$(BIN)/python -m docs.generate --check

docs: $(VENV)/.dev
	$(BIN)/python -m docs.generate

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache
