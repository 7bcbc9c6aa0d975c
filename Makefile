# Everything runs from the project's own environment; `make test` and `make demo` create it on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A process on every core, each with one thread; a file is tested by one process, which makes its fixtures once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile

.PHONY: setup check test quick demo bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[encoders,datasets,bench,docs,dev]'
	touch $(STAMP)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict

test: setup
	$(PYTEST) --durations=10

quick: setup
	$(PYTEST) -m "not slow"

demo: setup
	$(BIN)/temperance demo --out demo-out

bench: setup
	for file in $(filter-out $(addprefix benchmarks/,again.py common.py frontier.py kept.py markdown.py pictures.py reproduce.py splits.py tables.py variants.py),$(wildcard benchmarks/*.py)); do \
		$(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

docs: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo-out site build dist .pytest_cache .ruff_cache .hypothesis
