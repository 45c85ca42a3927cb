# Two commands set a new machine up: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOOR := .venv-floor
# What rests on torch and Triton, and what has broken between their versions.
FLOOR_TESTS := tests/model tests/kernels/contrastive/test_gather.py tests/kernels/test_dual_variance.py \
	tests/test_losses.py tests/test_losses_gather.py tests/bench/test_kernels.py \
	tests/training/test_loop.py tests/training/test_moco.py tests/training/test_optimisers.py \
	tests/training/test_step.py tests/training/test_resume.py tests/distributed/test_team.py
OUT ?= build/gpu-check
STAGE ?= kernels
STAMP := $(VENV)/installed
TYPES := build/types

.PHONY: help install demo test test-floor resolve lint docs bench gpu-check clean

help:
	@echo "make demo       install, write the demo videos, pretrain, evaluate, report (at most 6 minutes on 2 cores)"
	@echo "make test       install, run the whole test suite"
	@echo "make test-floor  the suite's core with the lowest versions that pyproject.toml allows; 6 GB in $(FLOOR)"
	@echo "make install    the environment alone, in $(VENV)"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation as a site in build/site; strict: a broken link is an error"
	@echo "make resolve    check that constraints.txt fits PyPI; downloads metadata alone, installs nothing"
	@echo "make bench      losses, loader, training, checkpoints and order at a size for this machine; writes"
	@echo "                bench/results and the tables of docs/benchmarks.md. Three take longer, start them by name:"
	@echo "                python -m bench.method, python -m bench.packs, python -m bench.soak"
	@echo "make gpu-check  what only a GPU can show: STAGE=name, OUT=folder for its results (docs/gpu.md)"
	@echo "make clean      remove the environment and everything built"

install: $(STAMP)

$(STAMP): setup.py pyproject.toml constraints.txt requirements/loss-contestants.txt
	@$(PYTHON) -c 'import sys; sys.exit("fastdual needs Python >= 3.11, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@# PyPI's fastdual is another project, and ours was called so before: its files would replace ours.
	$(BIN)/python -m pip uninstall -qq --yes fastdual
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -e ".[gpu,dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/loss-contestants.txt
	touch $@

demo: install
	$(BIN)/python -m fastdual demo demo --train

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The floor of a range that was never run is not a floor.
test-floor: $(FLOOR)/installed
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python -m pytest -n 2 --dist loadfile $(FLOOR_TESTS)

$(FLOOR)/installed: setup.py pyproject.toml constraints.txt .ci/lowest
	$(PYTHON) -m venv $(FLOOR)
	$(PYTHON) .ci/lowest > $(FLOOR)/lowest.txt
	$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(FLOOR)/lowest.txt \
		-e ".[gpu]" pytest pytest-timeout pytest-xdist hypothesis
	touch $@

resolve:
	PYTHON=$(PYTHON) .ci/resolve

# mypy does not know package_dir, so it is shown the tree as it will be installed.
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p $(TYPES)/fastdual
	find $(TYPES)/fastdual -type l -delete
	ln -s $(CURDIR)/fastdual/* $(CURDIR)/kernels $(CURDIR)/loaders $(TYPES)/fastdual/
	MYPYPATH=$(TYPES) $(BIN)/mypy -p fastdual

# mkdocstrings reads the docstrings in the tree that mypy is shown, and imports nothing.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -e ".[docs]"
	mkdir -p $(TYPES)/fastdual
	find $(TYPES)/fastdual -type l -delete
	ln -s $(CURDIR)/fastdual/* $(CURDIR)/kernels $(CURDIR)/loaders $(TYPES)/fastdual/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/loader-contestants.txt
	$(BIN)/python -m bench.losses
	$(BIN)/python -m bench.loader
	$(BIN)/python -m bench.train --levers
	$(BIN)/python -m bench.checkpoints
	$(BIN)/python -m bench.order
	$(BIN)/python -m bench.readme

# A machine with a GPU may have no network: nothing is installed for this.
gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m bench.gpu_check --stage $(STAGE) --out $(OUT)

clean:
	rm -rf $(VENV) $(FLOOR) build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
