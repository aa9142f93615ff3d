# `make install` makes .venv and puts everything in it; the other targets need nothing before them.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-slow check bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "making .venv and installing windtunnel into it: a few minutes the first time"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	@echo "a tour of about 16 minutes: text, then the whole wind tunnel, small, and a page (lab/report.html)"
	@$(BIN)/windtunnel tour

test: install
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

check: install
	@$(BIN)/ruff check src tests bench
	@$(BIN)/ruff format --check --quiet src tests bench
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache >/dev/null && echo "imports: the floors hold" || { $(BIN)/lint-imports; exit 1; }

bench: install
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv lab .pytest_cache .ruff_cache .hypothesis
