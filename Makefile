# Each target makes the environment that it needs; nothing has to be done before.
#
#   make demo    search the pages of docs/, notebooks and a page of HTML; QUESTION="what is recall" asks your own
#   make test    the tests; make test ARGS="-k filter" passes options to pytest
#   make lint    ruff, mypy --strict, the import rules, spelling
#   make soak    the long campaigns, hours in all; ARGS="--minutes 30" cuts them short
#   make docs    the documentation as a site, in site/
#   make bench   the benchmarks; ARGS="search" runs one
#   make format  let ruff format and mend
#   make clean   remove the environments and what the tools left behind
#
# PYTHON=python3.12 chooses the interpreter. The sessions behind most targets are in noxfile.py.

VENV ?= .venv
ARGS ?=
QUESTION ?=
QUESTIONS := $(if $(QUESTION),"$(QUESTION)",\
	"how do I give an agent a memory" "how do I move to LanceDB while the app keeps running")
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

# The first that runs and is new enough: a name on PATH may be a shim that does not run.
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	$$name -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)
# uv where it is there, else the environment's own pip. What is imported is compiled then.
INSTALL = $(if $(shell command -v uv),uv pip install --quiet --python $(BIN)/python,\
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile)
BUILT_FROM := pyproject.toml hatch_build.py $(wildcard adapters/aiovec_sqlite/copies/kernel/*.[cp]*)

.DEFAULT_GOAL := help
.PHONY: help demo test lint soak bench format docs clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.for-demo
	@mkdir -p build
	@$(BIN)/python -m aiovec import docs examples/notebooks examples/pages --exclude internals/ --exclude docs/README.md \
		--embedder local --delete -s build/docs.db
	@for question in $(QUESTIONS); do echo "== $$question"; \
		$(BIN)/python -m aiovec search "$$question" --group-by source --limit 2 -s build/docs.db || exit 1; done
	@echo "demo: done; the passages are in build/docs.db, and make demo QUESTION=\"how do I ...\" asks your own question"

test: $(VENV)/.for-test
	@$(BIN)/python -m tests $(ARGS)

lint soak bench format: $(VENV)/.for-nox
	@$(BIN)/nox -s $@ -- $(ARGS)

docs: $(VENV)/.for-docs
	@rm -rf build/pages && mkdir -p build/pages
	@cp -r README.md CHANGELOG.md CONTRIBUTING.md CODE_OF_CONDUCT.md SECURITY.md LICENSE Dockerfile docs examples config build/pages
	@for page in distributions/llm-aiovec/README.md tests/README.md; do \
		mkdir -p build/pages/$$(dirname $$page) && cp $$page build/pages/$$page; done
	@sed -i.bak -E "s#\]\(\.\./\.\./(src|adapters|migrate)/#]($$(sed -n 's/^repo_url: //p' mkdocs.yml)/blob/main/\1/#g" \
		build/pages/docs/internals/architecture.md && rm build/pages/docs/internals/*.bak  # code is on the forge
	@printf '%s\n' --- 'hide: [toc]' --- | cat - README.md > build/pages/README.md  # wide code
	@$(BIN)/zensical build --strict --clean $(ARGS)

clean:
	@rm -rf .venv .nox build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "aiovec needs Python 3.11 or newer with venv" >&2; exit 1; }
	@echo "== making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@# The first pip that installs dependency groups.
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"

$(VENV)/.for-demo: $(BUILT_FROM) | $(BIN)/python
	@echo "== installing aiovec into $(VENV)"
	@$(INSTALL) -e ".[documents,local]"
	@touch $@

$(VENV)/.for-test: $(BUILT_FROM) | $(BIN)/python
	@echo "== installing aiovec and what its tests need into $(VENV)"
	@$(INSTALL) -e . --group test
	@touch $@

$(VENV)/.for-docs: $(BUILT_FROM) | $(BIN)/python
	@echo "== installing aiovec and what its site needs into $(VENV)"
	@$(INSTALL) -e . --group docs
	@touch $@

$(VENV)/.for-nox: pyproject.toml | $(BIN)/python
	@$(INSTALL) nox
	@touch $@
