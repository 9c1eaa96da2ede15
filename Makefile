# Each target makes the environment it needs; nothing has to be done before.
#
#   make demo          see it work
#   make test          the tests; make test ARGS="-k filter" passes options to pytest
#   make test-uvloop   the tests on uvloop's event loop
#   make test-slow     the tests that take longer; .ci/run runs both
#   make test-soak     the long campaigns, hours in all
#   make bench         the benchmarks; ARGS="..." goes to python -m bench
#   make lint          ruff, mypy --strict, the import rules; each alone: ruff, types, imports
#   make clean         remove the environment and what the tools left behind
#
# PYTHON=python3.12 chooses the interpreter, VENV=.venv-3.12 where its environment lies, WORKERS=2
# how many processes share the tests.

VENV ?= .venv
ARGS ?=
WORKERS ?= 4
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python
# What is imported is compiled then; to compile all that is installed takes half of the installation.
PIP_OPTIONS := --quiet --disable-pip-version-check --no-compile
CORE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

# The first one that runs (a name on PATH may be a shim that does not), is new enough and can make
# an environment (some systems ship Python without ensurepip).
FIND_PYTHON = for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	if $$candidate -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then found=$$candidate; break; fi; done; \
	if [ -z "$$found" ]; then \
	echo "aiovec needs Python 3.11 or newer with venv and pip: $(or $(PYTHON),none was found)" >&2; \
	exit 1; fi

# Tests and benchmarks start hundreds of processes: each would compile the packages again.
unexport PYTHONDONTWRITEBYTECODE

# The processes that share the tests share the cores too: NumPy's threads would only wait for each
# other, and wait busily.
test test-slow test-uvloop: export OPENBLAS_NUM_THREADS = 1

.PHONY: help demo test test-slow test-uvloop test-soak bench lint ruff types imports format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(CORE)
	@$(RUN) -m aiovec demo $(ARGS)

test: $(DEV)
	@echo "== tests"
	@$(RUN) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-slow: $(DEV)
	@echo "== slow tests"
	@$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

test-uvloop: $(DEV)
	@echo "== tests under uvloop"
	@AIOVEC_LOOP=uvloop $(RUN) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-soak: $(DEV)
	@echo "== soak"
	@$(RUN) -m pytest -m soak --timeout 3600 $(ARGS)

bench: $(DEV)
	@echo "== benchmarks"
	@$(RUN) -m bench $(ARGS)

lint: ruff types imports
	@echo "lint: all passed"

ruff: $(DEV)
	@echo "== ruff check"
	@$(RUN) -m ruff check .
	@echo "== ruff format"
	@$(RUN) -m ruff format --check .

types: $(DEV)
	@echo "== mypy --strict"
	@$(RUN) -m mypy --strict

imports: $(DEV)
	@echo "== import rules"
	@$(BIN)/lint-imports

format: $(DEV)
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

clean:
	@rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "clean: removed $(VENV) and what the tools left behind"

$(RUN):
	@$(FIND_PYTHON); \
	echo "== making $(VENV) with $$found ($$($$found -V 2>&1))"; \
	$$found -m venv $(VENV)

# Editable, so only a change of what is installed or compiled asks for it again.
NATIVE := hatch_build.py $(wildcard adapters/aiovec_sqlite/copies/kernel/scan.c) \
	$(wildcard adapters/aiovec_sqlite/copies/kernel/build.py)
$(CORE): pyproject.toml $(NATIVE) | $(RUN)
	@echo "== installing aiovec into $(VENV)"
	@$(RUN) -m pip install $(PIP_OPTIONS) -e .
	@touch $@

# The processes that share the tests begin at once, and each would compile all that they import.
$(DEV): pyproject.toml $(NATIVE) | $(RUN)
	@echo "== installing aiovec and its development tools into $(VENV)"
	@$(RUN) -m pip install $(PIP_OPTIONS) -e ".[dev]"
	@touch $@ $(CORE)
	@echo "== compiling what the tests import"
	@for part in "[a-l]" "[m-z]"; do \
	$(RUN) -m pytest --collect-only -q tests/$$part*/ >/dev/null 2>&1 & done; wait
