# make demo | test | lint | install
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint format lock schemas clean

install: $(INSTALLED)

# One lock with hashes: what was tested is what is installed.
$(INSTALLED): compose/python.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r compose/python.lock
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install
	$(BIN)/python -m compose.demo

# Contract models to JSON Schemas.
schemas: install
	$(BIN)/python -m schemas.generate

clean:
	rm -rf $(VENV) .earwitness
