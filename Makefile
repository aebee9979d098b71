# Everything from nothing but python3 (3.11 or later) and make. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ALL := not slow and not gpu and not network
# One thread per test process: tests are small, and threads of several processes would fight for the cores. What is compiled
# is kept, whatever the environment says: every test process compiles all that it imports, and halves its start by that.
# A file of tests is one process's, so that what its tests share, as a training, is made once.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-slow test-oldest test-newest test-sdist check bench docs release-notes clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/installed  ## Train and compare four methods on handwritten digits; again: go on, or write the page anew
	$(BIN)/dat demo --resume
	@echo "Open runs/demo/report.html in a browser."

test: $(VENV)/installed-dev  ## The fast tests
	@$(PYTEST) -m "$(ALL) and not long"

test-long: $(VENV)/installed-dev  ## The tests of whole runs, seconds each; these and the fast ones must pass
	@$(PYTEST) -m "$(ALL) and long"

test-slow: $(VENV)/installed-dev  ## The tests that take minutes
	@$(PYTEST) -m "slow and not gpu and not network"

test-oldest: .venv-oldest/installed  ## Fast and long tests on the oldest versions that may be installed (downloads gigabytes)
	@$(subst $(BIN),.venv-oldest/bin,$(PYTEST)) -m "$(ALL)" -o filterwarnings=

test-newest:  ## Fast and long tests on the newest versions there are, of everything (downloads gigabytes)
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev]"
	@$(subst $(BIN),.venv-newest/bin,$(PYTEST)) -m "$(ALL)" $(TESTS)

# What travels, from nothing: the wheel is made of the sdist, the demo runs in an empty folder, and the tests are those of the
# sdist in a folder of its own, where `python -m` takes its code. Some of them only: make test-sdist TESTS="tests/nn tests/tasks"
TESTS ?= tests
SDIST := build/sdist
test-sdist: $(VENV)/installed-dev .venv-sdist/installed  ## Wheel and sdist: the demo and the tests in an environment without the checkout
	rm -rf dist $(SDIST) && mkdir -p $(SDIST)/empty
	$(BIN)/python -m build --outdir dist .
	.venv-sdist/bin/pip install --quiet --force-reinstall --no-deps dist/*.whl
	cd $(SDIST)/empty && $(CURDIR)/.venv-sdist/bin/dat --version && OMP_NUM_THREADS=1 $(CURDIR)/.venv-sdist/bin/dat demo
	tar -xzf dist/*.tar.gz -C $(SDIST) --strip-components 1
	@cd $(SDIST) && $(subst $(BIN)/pytest,$(CURDIR)/.venv-sdist/bin/python -m pytest,$(PYTEST)) -m "$(ALL)" $(TESTS)

check: $(VENV)/installed-dev  ## Style, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest tests/test_layers.py

bench: $(VENV)/installed-dev  ## The benchmarks that need no files, one after the other
	@for script in $(filter-out %/equal_rate.py %/alpha_by_size.py %/alpha_for_rate.py %/reproduce.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(VENV)/installed-docs  ## The documentation site, build/site: runs the notebooks, checks every link; a few minutes
	$(BIN)/python docs/site/gather.py build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Look at it: $(BIN)/python -m http.server --directory build/site"

release-notes: $(VENV)/created  ## What CHANGELOG.md says of a version: make release-notes VERSION=0.1.0
	@$(BIN)/python docs/site/release_notes.py $(or $(VERSION),Unreleased)

clean:  ## Remove the environment and caches; runs and data stay
	rm -rf $(VENV) .venv-* .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: install again only when what is asked for has changed.

$(VENV)/installed: $(VENV)/created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $(VENV)/installed $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,docs]"
	@touch $@

# Without the extras: their packages want newer ones. Old packages warn of new ones beside them, so warnings are no errors there.
.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet -c constraints-oldest.txt -e . pytest pytest-xdist hypothesis beartype
	@touch $@

# Without the extras, too: a test that needs one is skipped there.
.venv-sdist/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-sdist
	.venv-sdist/bin/pip install --quiet -c constraints.txt . pytest pytest-xdist hypothesis beartype
	@touch $@

$(VENV)/created:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here; install Python 3.11 or later." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "DAT needs Python 3.11 or later, and \
	$(PYTHON) is $$($(PYTHON) --version); write e.g. make demo PYTHON=python3.12" | tr -d '\t' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) comes without ensurepip, so it cannot make an \
	environment; install it (Debian, Ubuntu: apt install python3-venv)." | tr -d '\t' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
