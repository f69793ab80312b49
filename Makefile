# The commands of this project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

BIN := .venv/bin
# Passed on to the command of the target: make demo ARGS=--exit, make test ARGS="tests/unit -x".
ARGS ?=
# Each of these packages must be covered by tests to this share, in per cent.
COVERED := core spool dicom
COVERAGE_FLOOR := 95

.PHONY: help demo run test check format bench torture clean venv-run venv-dev peers

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: venv-run ## start everything, send real series through it and show them arrive (ARGS=--exit: then end)
	@exec $(BIN)/mercure demo $(ARGS)

run: venv-run ## start the platform (configuration: MERCURE_CONFIG_FOLDER)
	@exec $(BIN)/mercure run $(ARGS)

test: venv-dev peers ## run all tests, measure coverage, worker processes included
	@$(BIN)/coverage erase
	export COVERAGE_PROCESS_START="$(CURDIR)/pyproject.toml" COVERAGE_FILE="$(CURDIR)/.coverage"
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	unset COVERAGE_PROCESS_START
	failed=0
	for package in $(COVERED); do
	    echo "Coverage of $$package:"
	    $(BIN)/coverage report --include="src/mercure/$$package/*" --fail-under=$(COVERAGE_FLOOR) || failed=1
	done
	exit $$failed

check: venv-dev ## lint, formatting, types, import layers
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv-dev ## put the sources into the one format
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv-dev peers ## measure against DCMTK, Orthanc and a plain copy; writes bench/RESULTS.md
	@exec $(BIN)/python -m bench $(if $(ARGS),$(ARGS),all)

torture: venv-dev peers ## the long campaigns: kills, full disks, broken peers, fuzzing
	@export MERCURE_TORTURE=full
	exec $(BIN)/python -m pytest -m torture --timeout=0 $(ARGS)

clean: ## remove what tests, benches and tools leave behind (not .venv)
	@rm -rf .bench-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist .coverage .coverage.*
	find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

venv-run:
	@tools/venv.sh run

venv-dev:
	@tools/venv.sh dev

peers:
	@tools/ensure_peers.sh
