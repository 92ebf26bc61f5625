# Every target sets up all that it needs, in .venv; PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: example test test-oldest fuzz soak mutation coverage lint format type bench bench-gpu docs build clean

example: $(READY)  ## Train a small U-Net on brain images, validate it on one and two processes, draw the result
	$(BIN)/python examples/brain_tissue.py

test: $(READY)  ## All tests and doctests, the tests on two workers
	$(BIN)/python -m pytest -n 2

test-oldest: $(READY)  ## The tests of the host's contract under the oldest torchmetrics that is supported
	$(PYTHON) -m venv .venv/oldest
	.venv/oldest/bin/python -m pip install --quiet --editable ".[dev]" torchmetrics==1.6.0
	.venv/oldest/bin/python -m pytest -n 2 tests/test_metric_contract.py tests/test_sharing.py tests/test_merging.py \
		tests/test_wrappers.py tests/test_report.py tests/test_casewise.py tests/test_deferred.py tests/test_ddp.py

fuzz: $(READY)  ## Half an hour of random cases against the oracle
	$(BIN)/python tests/fuzz.py --minutes 30

soak: $(READY)  ## Memory and time over 100,000 updates and 1,000 epochs, in two processes
	$(BIN)/python tests/soak.py

mutation: $(READY)  ## Faults put into the core that no test notices, in mutants/; takes more than an hour
	OMP_NUM_THREADS=1 TORCHMETRICS_DICE_EXT_BACKEND=reference $(BIN)/mutmut run
	$(BIN)/mutmut results

coverage: $(READY)  ## Branches of the package that no test takes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(READY)
	$(BIN)/mypy

bench: $(READY)  ## Time and memory of metrics and losses on the CPU, against torchmetrics, MONAI and one read of the inputs
	$(BIN)/python -m benchmarks --device cpu
	$(BIN)/python -m benchmarks --device cpu --plots
	$(BIN)/python -m benchmarks.losses --device cpu

bench-gpu:  ## The same on a GPU, by the interpreter that has torch for it
	$(PYTHON) -m benchmarks --device cuda
	$(PYTHON) -m benchmarks --device cuda --plots
	$(PYTHON) -m benchmarks.losses --device cuda

docs: $(READY)  ## The site from README, guides and docstrings, in build/docs; a warning is an error
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

build: $(READY)  ## Wheel and source distribution, in dist/
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist mutants examples/output .coverage .coverage.* htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
