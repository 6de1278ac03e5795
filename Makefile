# Every target does everything from a fresh clone; what is already done is not done again.
#   make install   virtual environment in .venv with the pinned dependencies
#   make demo      train a policy and compare it with the heuristics (about 10 minutes)
#   make test      the test suite
#   make check     what CI runs: format, lint, types, import direction, tests
#   make mutants   change the code in small ways and see whether the tests notice (hours; no part of CI)
#   make format    rewrite the sources as `make check` wants them

PYTHON ?= python3
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
# The four source folders become the package dllm_env only by installing. Types, imports and tests are checked on
# such a copy, because tools that read sources do not follow an editable install into policies/, train/ and eval/.
COPY := build/check

.PHONY: install demo test check mutants format copy clean
.DEFAULT_GOAL := install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dllm-env needs Python 3.10 or newer; give one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/dllm-env demo

test: install
	$(BIN)/pytest

check: copy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd $(COPY) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	cd $(COPY) && $(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache
	PYTHONPATH=$(CURDIR)/$(COPY) $(BIN)/pytest

# MODULES="heads losses" for some of them; see docs/testing.md.
mutants: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutation]'
	$(BIN)/python tests/mutation.py $(MODULES)

# All of build/ goes, since setuptools would pack modules that an older build left there.
copy: install
	@rm -rf build
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(COPY) .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
