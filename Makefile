# `make install` makes .venv and installs everything into it. The other targets do so first where
# that is needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-slow check bench dist site clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Making .venv and installing windtunnel into it. The first time this takes a few minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed. Name one that you have: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	@echo "This takes about ten minutes on 2 cores: a corpus, four experiments, a plan and its run."
	@echo "The page with the results will be lab/report.html."
	@$(BIN)/windtunnel tour

test: install
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

check: install
	@$(BIN)/ruff check src tests bench
	@$(BIN)/ruff format --check --quiet src tests bench
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache >/dev/null && echo "Imports: the floors hold." || { $(BIN)/lint-imports; exit 1; }

bench: install
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

dist: install
	@rm -rf dist build
	@$(BIN)/python -c 'from setuptools.build_meta import *; build_sdist("dist"); build_wheel("dist")' >/dev/null
	@ls -l dist

site: install
	@$(BIN)/sphinx-build -q -W --keep-going -c docs . build/site
	@echo "The site's first page is build/site/index.html."

clean:
	rm -rf .venv lab dist build .pytest_cache .ruff_cache .hypothesis
