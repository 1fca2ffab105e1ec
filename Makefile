# Starts from Python 3.11 or later and make. `make help` lists what there is.

# The interpreter for .venv; left empty, the first of 3.11 or later on the path.
PYTHON ?=
# Processes for make test, of one torch thread each; 0 runs all in one.
PYTEST_WORKERS ?= 2
# More for pytest, such as "-k schema -x".
PYTEST_ARGS ?=
# For make test-extras, such as "spark ray"; all if left empty.
EXTRAS ?=

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
# Strict: type checkers and pkgutil see the folders under their import names. It links file by file, so a new or
# deleted file needs the install again; sources.txt changes when the list of files does. The links live in build/,
# as do the stamps: whoever removes build/ gets a new install.
EDITABLE := --config-settings editable_mode=strict -e
INSTALL_INPUTS := .venv/pyvenv.cfg sdk/_version.py setup.cfg pyproject.toml constraints.txt build/sources.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory
.PHONY: help demo test test-extras lint docs bench clean FORCE

help: ## list the commands
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST))

demo: build/demo.stamp ## find the oddest flights of 2013 and generate new ones, from nothing
	$(BIN)/python samples/flights.py

test: build/dev.stamp lint ## every check: lint, tests (the slow ones too), doctests, the README's code
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not extras" --no-loadscope-reorder \
	    -n $(strip $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS))

test-extras: build/dev.stamp ## each bridge to another system in an environment of its own; takes long
	$(BIN)/python tests/extras.py $(EXTRAS)

lint: build/dev.stamp ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: build/docs.stamp ## a site of the documents and the reference, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml
	@echo 'build/site/index.html is the first page; to search: $(BIN)/python -m http.server -d build/site'

bench: build/dev.stamp ## run every script in benchmarks/, one thread each
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do \
	    echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python "$$script"; \
	done

clean: ## remove what these commands made, .venv included
	rm -rf .venv build dist output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/pyvenv.cfg:
	@for python in $(PYTHON) $(if $(strip $(PYTHON)),,python3 python3.14 python3.13 python3.12 python3.11); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "creating .venv with $$($$python --version)"; $$python -m venv --clear .venv; exit; \
	    fi; \
	done; echo "Python 3.11 or later was not found. Name it: make PYTHON=/path/to/python3.11" >&2; exit 1

build/sources.txt: FORCE
	@mkdir -p build
	@find sdk exporters integrations -name '*.py' -o -name py.typed | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

build/%.stamp: $(INSTALL_INPUTS)
	@echo 'installing lookalike[$*] into .venv; the first time takes minutes'
	@$(PIP_INSTALL) $(EDITABLE) '.[$*]'
	@touch $@
