# make run: from nothing to named faces.  make test: everything proved.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup run test lint type bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

setup: $(VENV)/.done  ## a virtual environment with the locked versions

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: setup  ## fetch the models and five people's photos, run the whole pipeline on them
	$(BIN)/python scripts/demo.py

test: setup lint type  ## all tests, after lint and type
	$(BIN)/python -m pytest

lint: setup  ## ruff and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: setup  ## mypy
	$(BIN)/mypy

bench: setup  ## every figure that the project states → docs/benchmarks.md (two hours; needs FACEREC_DATA)
	$(BIN)/python -m benchmarks

clean:  ## remove the environment, caches and the demo
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
