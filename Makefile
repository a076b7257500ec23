PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.robustspike-installed

.PHONY: demo test test-all check bench oracles install clean

# Trains four small networks on embedded data, attacks them, writes demo/report.html.
demo: $(READY)
	$(BIN)/robustspike demo --out demo

# One process for each core, one thread for each process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

test: $(READY)
	$(PYTEST)

test-all: $(READY)
	$(PYTEST) -m "slow or not slow"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

bench: $(READY)
	$(BIN)/python -m benchmarks

# Our attacks against other libraries', in an environment of its own (6 GB, a few minutes the first time).
ORACLES := .venv-oracles

oracles: $(ORACLES)/.installed
	OMP_NUM_THREADS=1 $(ORACLES)/bin/python -m pytest -q -W ignore oracles

$(ORACLES)/.installed: pyproject.toml oracles/requirements.txt
	test -x $(ORACLES)/bin/python || $(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check --editable . --requirement oracles/requirements.txt
	touch $@

install: $(READY)

# Older releases that many networks were built with, beside the current ones: some tests run again with these.
OLDER := $(VENV)/older-frameworks
OLDER_FRAMEWORKS := spikingjelly==0.0.0.0.14 snntorch==0.9.4

# Remade when the dependencies change.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robustspike needs Python 3.11 or newer; say make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(OLDER) $(OLDER_FRAMEWORKS)
	touch $@

clean:
	rm -rf $(VENV) $(ORACLES) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
