# Every target sets up all that it needs, in .venv; PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: example test lint format type bench bench-gpu build clean

example: $(READY)  ## Train a small U-Net on real data, validate it on one and two processes, draw the result
	$(BIN)/python examples/brain_tissue.py

test: $(READY)  ## All tests and doctests, the tests on two workers
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY)
	$(BIN)/mypy

bench: $(READY)  ## Time and memory on the CPU, against torchmetrics, MONAI and one read of the inputs
	$(BIN)/python -m benchmarks --device cpu

bench-gpu:  ## The same on a GPU, by the interpreter that has torch for it
	$(PYTHON) -m benchmarks --device cuda

build: $(READY)  ## Wheel and source distribution, in dist/
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist examples/output .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
