.DEFAULT_GOAL := help
.PHONY: help setup lock format lint types test check run clean

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it, as locked

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Penstock needs Python 3.11 or newer: install it, or name yours with 'make PYTHON=...'." >&2; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## pin every dependency anew, with hashes (needs uv)
	uv pip compile pyproject.toml --all-extras --group dev --python-version 3.11 --universal --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --upgrade -o requirements.lock

format: $(READY) ## lay out the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY) ## layout and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY) ## strict type check, tests included
	$(BIN)/mypy

test: $(READY) ## every test
	$(BIN)/pytest

check: lint types test ## what CI runs

clean: ## forget the environment and what runs left behind
	rm -rf $(VENV) .run infra/local/target
