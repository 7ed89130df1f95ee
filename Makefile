PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DELETE_ON_ERROR:
.PHONY: demo test lint soak serve bench clean

# Everything below sets itself up: a virtual environment, and the starter model on first use.
$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[trio,embedded]' --group dev
	touch $@

# Load a real model in a scope, talk to it, and watch the memory come back.
demo: $(VENV)/ready
	@$(BIN)/python examples/demo.py $(ARGS)

# Linters, types, the test suite on every event loop, and the coverage of all of it.
test: lint
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Hours of misfortune in minutes: simulated seeds, fuzz tests at length, the real engine; one table.
soak: $(VENV)/ready
	$(BIN)/python -m tests.soak $(ARGS)

# Serve the models in the cache until Ctrl-C.
serve: $(VENV)/ready
	$(BIN)/python -m lmstudio_async fetch-starter-model
	$(BIN)/python -m lmstudio_async serve $(ARGS)

# What the client costs; all rows take about ten minutes and write docs/performance.md.
bench: $(VENV)/ready-bench
	@$(BIN)/python -m benchmarks $(ARGS)

$(VENV)/ready-bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	touch $@

clean:
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
