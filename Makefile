# Every target does everything from a fresh clone; what is already done is not done again.
#   make install   virtual environment in .venv with the pinned dependencies
#   make demo      train a policy and compare it with the heuristics (about 8 minutes)
#   make test      the test suite, without what takes longest
#   make docs      the documentation's site, into build/site
#   make check     format, lint, types, import direction, the site, and the test suite
#   make thorough  the tests that take longest
#   make oldest    the quick tests with the lowest versions that pyproject.toml allows
#   make python310 the quick tests on Python 3.10
#   make campaigns  kill, stop, starve and fool the commands many times (an hour; no part of CI)
#   make mutants   change the code in small ways and see whether the tests notice (hours; no part of CI)
#   make ci        what CI runs: check, oldest
#   make full      all of the above, before a release: check, thorough, oldest, python310
#   make format    rewrite the sources as `make check` wants them

PYTHON ?= python3
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
LINKS := $(VENV)/.linked
# Folders that a new, removed or renamed module changes.
FOLDERS := $(shell find dllm_env policies train eval -type d -not -name __pycache__)
# For the moment of a check only, because it can take several GB; not on the path of modules from the checkout.
ELSEWHERE := build/elsewhere
# Tests run side by side with one thread each: one more than there are processors, as some of them wait.
PYTEST = pytest -n $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN)) --dist worksteal
QUICK := -m 'not slow' -W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::PendingDeprecationWarning

.PHONY: install demo test docs check thorough oldest python310 ci full campaigns mutants format clean
.DEFAULT_GOAL := install

install: $(LINKS)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "dllm-env needs Python 3.10 or newer; give one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(LINKS)

# An editable install is a folder of links to each file, so a new file needs a link.
$(LINKS): $(STAMP) $(FOLDERS)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/dllm-env demo

test: install
	$(BIN)/$(PYTEST) -m 'not thorough'

# Strict: a warning, such as of a link to nowhere, ends it. The variable silences advertisement.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Types and imports are checked from another folder, where dllm_env is the installed package with all its parts.
check: docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd $(VENV) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache
	cd $(VENV) && $(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache
	$(BIN)/$(PYTEST) -m 'not thorough' --durations 20

thorough: install
	$(BIN)/$(PYTEST) -m thorough --durations 20

# $(call elsewhere,PYTHON,CONSTRAINTS): the quick tests of the built package in an environment of its own.
define elsewhere
	rm -rf $(ELSEWHERE) build/lib build/bdist.*
	$(1) -m venv $(ELSEWHERE)
	$(ELSEWHERE)/bin/python -m pip install --quiet --constraint $(2) '.[test]'
	$(ELSEWHERE)/bin/python -m pip check
	$(ELSEWHERE)/bin/$(PYTEST) $(QUICK)
	rm -rf $(ELSEWHERE)
endef

oldest:
	$(call elsewhere,$(PYTHON),constraints-lowest.txt)

python310:
	$(call elsewhere,$(or $(PYTHON310),python3.10),constraints.txt)

ci: check oldest

full: check thorough oldest $(if $(PYTHON310),python310)

# Every script there that can be run; the line that each says at its end is kept in build/campaigns.txt.
campaigns: install
	@mkdir -p build && : > build/campaigns.txt
	@status=0; for script in $$(grep -l __main__ tests/campaigns/*.py); do \
		line=$$(nice $(BIN)/python $$script) || status=1; echo "$$line" | tee -a build/campaigns.txt; \
	done; exit $$status

# MODULES="heads losses" for some of them; see docs/testing.md.
mutants: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[mutation]'
	$(BIN)/python tests/mutation.py $(MODULES)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# build/ holds what the editable install links to, so the environment is linked anew after this.
clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache $(LINKS)
