.DEFAULT_GOAL := help
.PHONY: help run test test-full check simulate chaos bench docs format lint types acceptance lock setup clean

SEEDS ?= 0-499
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILE := uv pip compile --python-version 3.11 --universal --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"
PYTEST := $(BIN)/pytest -n 2
# Without cached bytecode, each program that a test starts would compile all of our code again.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) ## everything on this machine, with the users example (ARGS=--once ends after the summary)
	@$(BIN)/python -m examples.users $(ARGS)

test: $(READY) ## the tests that need no Java, in four to seven minutes; ARGS="tests/unit -k lease" runs some
	$(PYTEST) --dist worksteal $(ARGS)

test-full: $(READY) ## the tests that `make test` leaves out: the real servers, all seeds, every story, chaos in short
	$(PYTEST) --dist loadgroup -m full $(ARGS)

acceptance: $(READY) ## every story with real processes
	$(PYTEST) --dist loadgroup -m "" tests/acceptance $(ARGS)

simulate: $(READY) ## run seeds on a simulated AWS in virtual time: SEEDS=0-4999, MIX=storm, ARGS="--replay 377"
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(if $(MIX),--mix "$(MIX)") $(ARGS)

chaos: $(READY) ## real processes killed, stopped and restarted under load: ARGS="--operations 2000 --only poison"
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(READY) ## measure speed, cost and memory against their lower bounds: an hour or more (ARGS=--quick: about three minutes)
	$(BIN)/python -m bench $(ARGS)

docs: $(READY) ## build the site into .run/docs; warnings and broken links are errors
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs .run/docs

check: lint types test docs test-full ## what CI runs, without its limit of time

format: $(READY) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY) ## check layout, lint and declared dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/deptry .

types: $(READY) ## strict type check, tests included
	$(BIN)/mypy

lock: ## update every pinned dependency, with hashes; the image gets the same versions (needs uv and npm)
	$(COMPILE) pyproject.toml --all-extras --group dev --upgrade -o requirements.lock
	$(COMPILE) pyproject.toml --extra server --extra tracing --constraint requirements.lock -o requirements-image.lock
	$(COMPILE) --group build --constraint requirements.lock -o requirements-build.lock
	$(COMPILE) examples/users/requirements.in --constraint requirements.lock -o examples/users/requirements.lock
	$(COMPILE) tests/acceptance/generated/requirements.in --upgrade -o tests/acceptance/generated/requirements.lock
	npm install --prefix tests/acceptance/generated --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts
	npm install --prefix tests/acceptance/odata --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts
	npm install --prefix tests/acceptance/openai --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts

setup: $(READY) ## create .venv with the locked dependencies

$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Penstock needs Python 3.11 or newer: install it, or pass its path with 'make PYTHON=/path/to/python'." >&2; exit 1; }
	@echo "Setting up $(VENV), once; about a minute ..."
	@"$(PYTHON)" -m venv $(VENV) || \
		{ echo "Python could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv." >&2; exit 1; }
	@$(PIP) --require-hashes --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean: ## delete the environment and the files that runs left
	rm -rf $(VENV) .run infra/local/target
