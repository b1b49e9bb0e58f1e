# Every goal makes the environment it needs; `make` alone lists the goals.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests of a file share what it makes, so that they stay in one process; each process has one thread.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-onnx test-browser test-wheel quality style docs build

help:  ## list the goals
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 15

install: $(INSTALLED)  ## make .venv with the library (editable) and everything that development needs

$(INSTALLED): pyproject.toml
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), which takes a few minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]'
	@touch $@

quickstart: $(INSTALLED)  ## ERM and LfF + BiasEnsemble side by side on a small Coloured MNIST
	@$(BIN)/python examples/quickstart.py

test: $(INSTALLED)  ## run the tests, in two processes or WORKERS=
	@$(PYTEST) $(PARALLEL)

test-slow: $(INSTALLED)  ## run the tests that take minutes
	@$(PYTEST) $(PARALLEL) -m slow --ignore tests/test_wheel.py --ignore tests/test_audit_page.py  # which have goals of their own

test-wheel: $(INSTALLED)  ## build the wheel and use it in an empty folder
	@$(PYTEST) -m 'slow or not slow' tests/test_wheel.py

test-onnx: $(INSTALLED)  ## run the tests of ONNX files, with the extra `onnx`
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[onnx]'
	@$(PYTEST) -k onnx tests/test_predict.py

test-browser: $(INSTALLED)  ## run the tests of the audit page, where there is a Chromium
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input playwright axe-playwright-python && \
	    $(PYTEST) -m slow tests/test_audit_page.py; \
	else echo "no Chromium here: the tests of the audit page in a browser are left out"; fi

quality: $(INSTALLED)  ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

style: $(INSTALLED)  ## fix style where possible
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(INSTALLED)  ## build the documentation in site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

build: $(INSTALLED)  ## make sdist and wheel in dist/
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	@$(BIN)/python -m build
