# Everything that this checkout does, from a bare Python 3.11 on. `make help` lists it.
# Nothing outside the checkout is written: the environment is .venv, data and releases lie in .cadp (or $CADP_HOME).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

PYTHON ?=
TORCH ?= cpu
TORCH_VERSION := 2.13.0
TORCH_INDEX ?=
SPEC ?= docs/examples/fashion-mnist.yaml

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/ready-$(TORCH)
export CADP_HOME ?= $(CURDIR)/.cadp

.PHONY: help setup data demo down status test bench bench-utility bench-tables lint clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo "  variables: ONLY=ledger  SPEC=$(SPEC)  TORCH=$(TORCH) (cpu or cuda)  TORCH_INDEX=URL  PYTHON=python3.11"

setup: $(STAMP) ## Make .venv with everything at its pinned version (TORCH=cpu|cuda)

# The stamp comes last: a set-up that was interrupted is done again.
$(STAMP): pyproject.toml infra/constraints.txt infra/setup.sh
	@TORCH="$(TORCH)" TORCH_VERSION="$(TORCH_VERSION)" TORCH_INDEX="$(TORCH_INDEX)" \
		PYTHON="$(PYTHON)" bash infra/setup.sh $(VENV)
	@rm -f $(VENV)/ready-* && touch $@

data: setup ## Fetch and check the demo's data
	@for name in fashion-mnist breast-cancer diabetes; do \
		$(BIN)/python -m cadp.sources.fetch $$name "$(CADP_HOME)/data"; done

demo: setup data ## Run a whole release (SPEC=… runs another one); run it again and it goes on
	@$(BIN)/cadp keys new --if-absent
	@$(BIN)/cadp budget init "$(SPEC)" --epsilon 16 --delta 1e-6 --if-absent
	@$(BIN)/python -m flows release "$(SPEC)"

down: ## Stop the Prefect server that the demo left up
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m flows down; else echo "no server runs"; fi

status: ## Say whether the Prefect server runs, and where
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m flows status; else echo "no server runs"; fi

# One process more than cores, at most 4, for ledgers wait for their disk; one thread each, for threads wait for cores.
test: setup data ## Run the tests
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile \
		-n "$$($(BIN)/python -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')"

bench: setup ## Measure speed and memory against their targets (ONLY=ledger for some of them)
	@$(BIN)/python -m tests.benchmarks $(ONLY)

# One thread: CPU seconds are then of work, not of waiting. WHAT="--seeds 0 --records 6000 --only 10 resample" is a look.
bench-utility: setup data ## Measure how useful released records are and write docs/utility.md; run it again and it goes on
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.utility $(WHAT)

bench-tables: setup data ## Measure how useful released tables are and write docs/tables.md
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.tables $(WHAT)

lint: setup ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean: down ## Remove .venv and caches; .cadp, with data, keys, ledger and releases, stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	@find cadp flows tests -name __pycache__ -type d -prune -exec rm -rf {} +
