# Every goal makes the environment it needs; `make` alone lists the goals.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow quality style docs build

help:  ## list the goals
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 14

install: $(INSTALLED)  ## make .venv with the library (editable) and all that development needs

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), which takes a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]'
	@touch $@

quickstart: $(INSTALLED)  ## ERM and LfF + BiasEnsemble side by side on a small Coloured MNIST
	@$(BIN)/python examples/quickstart.py

test: $(INSTALLED)  ## run the tests
	@$(BIN)/python -m pytest -q

test-slow: $(INSTALLED)  ## run the tests that take minutes
	@$(BIN)/python -m pytest -q -m slow

quality: $(INSTALLED)  ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

style: $(INSTALLED)  ## mend style where that can be done automatically
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(INSTALLED)  ## build the documentation in site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

build: $(INSTALLED)  ## make sdist and wheel in dist/
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	@$(BIN)/python -m build
