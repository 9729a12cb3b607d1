# Every target makes its own virtual environment in .venv and installs what it needs.
# VENV=/path uses another one; PYTHON=python3.12 another interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
DEMO ?=
TESTS ?= not slow and not gpu and not faults and not notebook

.PHONY: demo test check format docs bench faults clean

demo: $(VENV)/.core
	$(BIN)/toto demo --out $(OUT) $(DEMO)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q --numprocesses=logical --maxprocesses=8 --dist=loadfile -m "$(TESTS)"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env --doctree-dir $(VENV)/doctrees docs site

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

faults: $(VENV)/.dev
	TOTO_FAULTS=nightly $(BIN)/python -m pytest -q -m faults

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) make_venv.py $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[docs]"
	touch $@ $(VENV)/.core

# Peers that declare torchvision, which must not come in, or much else, stand apart and without
# dependencies; so does torchao, which only benchmarks of FP8 need.
$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade --target $(VENV)/bench-packages attrs requests
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade --no-deps --target $(VENV)/bench-packages DALL-E==0.1 opencv-python-headless==5.0.0.93
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade --no-deps --target $(VENV)/bench-packages litgpt==0.5.13 lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 jsonargparse==4.53.0 torchao==0.18.0
	touch $@
