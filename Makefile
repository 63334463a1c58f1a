# Everything starts here: each target sets up .venv first if it is missing or its inputs changed.
PYTHON ?= python3
PIP_FLAGS ?=
# A CPU build of torch, where the default index gives the CUDA build:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help venv demo recipe test unit lint format docs bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

venv: $(READY)  ## set up .venv with the pinned packages and build csrc/

$(READY): pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*/*.hpp)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt --no-deps deepfocus
	@touch $(READY)

recipe: $(READY)  ## the whole recipe, corpus to evaluated chat model and report.html, 17 minutes on 2 cores
	examples/recipe/run.sh

demo: $(READY)  ## text -> tokenizer -> shard -> tensor-parallel training -> Hugging Face -> generated text, minutes on 2 cores
	examples/demo/demo.sh

test: lint unit  ## lint, then the whole test suite

unit: $(READY)  ## the test suite alone
	python -m pytest

lint: $(READY)  ## ruff, mypy and the import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

format: $(READY)  ## put the code into the house's form
	ruff format .
	ruff check --fix .

docs: $(READY)  ## the documentation as a site: site/index.html
	sphinx-build -W --keep-going -q -c docs/site -d build/doctrees . site

bench: $(READY)  ## the benchmarks that need no GPU
	python tools/bench/preprocess.py
	python tools/bench/focus.py

clean:  ## remove what the demo and the tests made (not .venv)
	rm -rf demo recipe experiments site build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
