# Sets everything up on a fresh machine with Python 3.11 or newer: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 1800
FUZZ_SEED ?= 1
BIN := $(VENV)/bin
CORE := $(VENV)/core.stamp
STAMP := $(VENV)/installed.stamp

.PHONY: help install demo test test-all fuzz check docs style graph clean

help:
	@echo "make demo      install, detect targets in a synthetic scene, show them"
	@echo "make test      install what tests need, ruff, mypy and the tests (test-all: the slow ones too)"
	@echo "make fuzz      damaged files for half an hour, 200 kills, properties at length"
	@echo "make check     ruff and mypy only"
	@echo "make docs      the documentation as a site in docs/_build/html"
	@echo "make style     let ruff fix and format"
	@echo "make graph     export the bundled detector anew, after its weights have changed"
	@echo "make clean     remove the virtual environment and build products"

install: $(STAMP)

$(CORE): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e ".[runtime]"
	touch $@

$(STAMP): $(CORE)
	$(BIN)/python -m pip install -c constraints.txt -e ".[runtime,test]"
	$(BIN)/python -m pip install --no-deps -c constraints.txt pyirstdmetrics
	touch $@

demo: $(CORE)
	$(BIN)/irstd-ldm detect --output demo-output

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy irstd_ldm scripts

test: check
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-all: check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

fuzz: $(STAMP)
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) KILLS=50 HYPOTHESIS_PROFILE=long \
		$(BIN)/python -m pytest -s tests/fuzz tests/evaluation/test_matching.py

docs: $(STAMP)
	$(BIN)/sphinx-build -W docs docs/_build/html

style: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

graph: $(STAMP)
	rm -rf irstd_ldm/checkpoints/tiny/exported
	$(BIN)/irstd-ldm export --format onnx --output irstd_ldm/checkpoints/tiny/exported

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info demo-output .mypy_cache .pytest_cache .ruff_cache
