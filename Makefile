# One virtual environment, .venv, for everything. A stamp file in it for each set of packages says when that set was
# installed, so that nothing is installed again until pyproject.toml or constraints.txt change.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help quickstart test lint docs clean

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Without byte code every Ray process would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make quickstart   install, then run the sweep of jobs/recipes/quickstart.yaml on this machine"
	@echo "make test         run the tests; ARGS=... goes to pytest"
	@echo "make lint         check format, style and types"
	@echo "make docs         build the documentation into site/"
	@echo "make clean        remove .venv, caches and site/; results in runs/ stay"

quickstart: $(VENV)/.installed
	$(BIN)/raymdm sweep jobs/recipes/quickstart.yaml

# Tests that start Ray wait for processes more than they compute: two files at a time, after all others, in the order of
# tests/ray/conftest.py. ARGS may leave one of the two without any.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not ray" $(ARGS) || [ $$? -eq 5 ]
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ray $(ARGS) || [ $$? -eq 5 ]

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy raymdm

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The versions in constraints.txt were resolved for Python 3.11, so that one is taken where there is a choice;
# `make PYTHON=/path/to/python ...` takes another.
$(BIN)/python:
	@for python in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
			exit 0; \
		fi; \
	done; \
	echo "raymdm needs Python 3.11 or newer, found: $$($(or $(PYTHON),python3) --version 2>&1 || true)." >&2; \
	echo "Install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2; \
	exit 1

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing raymdm and its dependencies into $(VENV) (some minutes the first time)"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing raymdm[$*] into $(VENV)"
	$(INSTALL) --editable '.[$*]'
	@touch $@
