# make demo: sets up, and runs the main job. make test: sets up, and passes the tests. The rest: make help.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full lint lock audit clean

# The first Python that is new enough; override with make PYTHON=...
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

help:
	@echo "make demo       set up, and run the main job on the embedded model (minutes)"
	@echo "make test       set up, and run the tests that take minutes"
	@echo "make test-full  set up, and run all tests"
	@echo "make setup      make or refresh .venv from deploy/locks"
	@echo "make lint       ruff, as the tests run it"
	@echo "make audit      bill of materials of .venv, and its known vulnerabilities (needs a network)"
	@echo "make lock       make the lock files again from pyproject.toml"

setup:
	@test -n "$(PYTHON)" || { echo "setup: no Python from 3.11 to 3.13 found; install one, or say make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) deploy/setup_env.py

demo: setup
	@$(BIN)/kindling demo

test: setup
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-full: setup
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-annotate --no-header \
	--extra embedded --extra dev --excludes deploy/locks/excludes-embedded.txt
lock: setup
	$(COMPILE) --extra cpu deploy/locks/torch-cpu-needs.in --excludes deploy/locks/excludes-cpu.txt -o deploy/locks/cpu.txt
	$(COMPILE) --extra gpu -o deploy/locks/gpu.txt

# In environments of their own: neither belongs to what it looks at.
audit: setup
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --output-file sbom.cdx.json .venv
	$(BIN)/uv tool run pip-audit==2.10.1 --vulnerability-service osv --skip-editable --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

clean:
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .hypothesis
