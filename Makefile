# make demo, make test and make check each work on a fresh clone with Python 3.11+ and a package index alone.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
NEWEST_BIN := .venv-newest/bin
NEWEST := .venv-newest/.installed
# One process for each core, up to four: each that loads TensorFlow takes 1.5 GB. A file stays in one process, whose
# fixtures its tests share; tests/conftest.py says which files come first.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
STORES := tests/store $(addprefix tests/faults/test_,hostile_stores.py full_disk.py kills.py writers.py power_cuts.py operations.py flips.py) tests/test_embedding.py tests/test_restoration.py tests/cli/test_verify.py
FAST := not keras and not shared and not faults
CORE = $(shell $(BIN)/python -c 'import sys; print("sysmon" if sys.version_info >= (3, 12) else "ctrace")')

# Containers often set it. Without bytecode, each of the hundreds of processes that tests start compiles featx again, and
# each process of pytest rewrites all tests.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test coverage fast faults newest check docs format wheel clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## install, and run the whole loop on real images in about a minute
	$(BIN)/featx demo

test: $(INSTALLED) ## run all tests but the long fault suite
	$(BIN)/python -m pytest $(PARALLEL) -m "$(FAST) and not slow"
	$(BIN)/python -m pytest $(PARALLEL) -m "(keras or shared or slow) and not faults"

# On the fast tests only, and not by `make test`: without sys.monitoring (Python 3.11) it costs half as much time again.
coverage: $(INSTALLED) ## run the fast tests and report their coverage
	COVERAGE_CORE=$(CORE) $(BIN)/python -m pytest $(PARALLEL) -m "$(FAST) and not slow" --cov --cov-report=term

fast: $(INSTALLED) ## run what needs neither TensorFlow nor many processes: a minute or two
	$(BIN)/python -m pytest $(PARALLEL) -m "$(FAST) and not slow"

# `make test` has a sample of them.
faults: $(INSTALLED) ## kill processes, fill disks and cut power, by the hundred
	$(BIN)/python -m pytest -m faults -rP tests/faults

# Without TensorFlow, which holds h5py back: whatever reads or writes a store. The rest sees arrays only, and `make test`
# has all of it.
newest: $(NEWEST) ## run the fast tests of stores with the newest h5py
	$(NEWEST_BIN)/python -c 'import h5py; print("h5py", h5py.version.version, "on HDF5", h5py.version.hdf5_version)'
	$(NEWEST_BIN)/python -m pytest -q $(PARALLEL) -m "$(FAST)" $(STORES)

check: $(INSTALLED) ## check format, lint, types, layers, sizes, and build the documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/test_project.py tests/test_site.py

docs: $(INSTALLED) ## regenerate docs/cli.md and build the site into build/site
	$(BIN)/python tests/cli_page.py
	$(BIN)/python -m zensical build --strict --clean

format: $(INSTALLED) ## format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(INSTALLED) ## build a wheel into dist/
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean: ## remove environments, builds and caches
	rm -rf .venv .venv-newest dist build featx-demo* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache .coverage

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "featx needs Python 3.11 or newer; name one with make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group test --group check --editable '.[offline,hub,report,map,export,serve,dicom,heic,ray,remote]'
	touch $(INSTALLED)

$(NEWEST): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-newest
	$(NEWEST_BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	grep -v '^h5py==' constraints.txt > .venv-newest/constraints.txt
	$(PYTHON) -c 'import re, tomllib; found = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; print(*(name for name in found if not re.match("tensorflow|keras|openvino", name)), sep="\n")' > .venv-newest/dependencies.txt
	$(NEWEST_BIN)/python -m pip install --quiet --constraint .venv-newest/constraints.txt --group test --requirement .venv-newest/dependencies.txt
	$(NEWEST_BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(NEWEST)
