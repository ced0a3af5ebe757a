# Everything a developer does, one word each. `make` alone lists them.
#   ARGS    handed on:          make run ARGS="--port 9000"    make test ARGS="-k feedback"
#   PYTHON  which Python to use: make run PYTHON=/usr/local/bin/python3.12

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run demo test check format bench bench-learning docs migrate clean

PYTHON ?=
ARGS ?=
PIP := .venv/bin/python -m pip --disable-pip-version-check --no-input install --quiet --quiet -c constraints.txt
DEPENDENCIES := pyproject.toml constraints.txt

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

run: .venv/installed ## Serve on http://127.0.0.1:8402, with simulated models until armwise.toml says otherwise
	@exec .venv/bin/armwise serve $(ARGS)

demo: .venv/installed ## Send prompts, to the running service or one of its own, and watch it learn
	@exec .venv/bin/armwise demo $(ARGS)

test: .venv/installed-dev ## Run all tests
	@.venv/bin/python -m pytest -n 2 --dist worksteal -q $(ARGS)

check: .venv/installed-dev ## Check format, lint and types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

format: .venv/installed-dev ## Format the code and repair what the linter can repair
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

bench: .venv/installed-dev ## Measure how much time we add
	@.venv/bin/python -m benchmarks.load_test $(ARGS)

bench-learning: .venv/installed-dev ## Replay what was learned on real outcomes, for docs/learning.md
	@OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.learning_table $(ARGS)

docs: .venv/installed-dev ## Build the documentation into site/, without a network
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build $(ARGS)

migrate: .venv/installed ## Bring the database to the newest schema (serving does it by itself)
	@exec .venv/bin/armwise migrate $(ARGS)

clean: ## Remove the virtual environment and all caches; data/ stays
	@rm -rf .venv dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that runs and is new enough; a version manager's stand-in may be there and not run.
.venv/bin/python:
	@for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Armwise needs Python 3.11 or newer; found: $$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)." >&2; \
	  echo "Install one, or name one that is not on the path: make run PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Making .venv with $$("$$found" --version) ..."; \
	"$$found" -m venv .venv || { \
	  rm -rf .venv; \
	  echo "$$found cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; \
	}

# A stamp is newer than what it was installed from, so that nothing is installed twice.
.venv/installed: $(DEPENDENCIES) | .venv/bin/python
	@echo "Installing Armwise into .venv (once; a minute or two) ..."
	@$(PIP) -e .
	@touch $@

.venv/installed-dev: $(DEPENDENCIES) | .venv/bin/python
	@echo "Installing Armwise and what its tests need into .venv (once; a minute or two) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ .venv/installed
