# make demo: set-up, and the main job. make test: set-up, and the fast tests. All targets: make help.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full monitoring lint lock audit clean

# The first Python that is new enough; override with make PYTHON=...
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

help:
	@echo "make demo       set up, and run the main job on the embedded model (minutes)"
	@echo "make test       set up, and run the tests that take minutes"
	@echo "make test-full  make test, then all slow tests, one at a time (an hour and a half)"
	@echo "make test-full PART=training   run only the slow tests with that word in their folder, file or name"
	@echo "make setup      make or refresh .venv from deploy/locks"
	@echo "make monitoring say how to start Prometheus and Grafana on this host"
	@echo "make lint       ruff, which the tests run too, and mypy"
	@echo "make audit      write a bill of materials of .venv, and list its known vulnerabilities (needs a network)"
	@echo "make lock       make the lock files again from pyproject.toml"
	@echo "make clean      remove .venv and all caches"

setup:
	@test -n "$(PYTHON)" || { echo "setup: no Python from 3.11 to 3.13 found; install one, or run make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) deploy/setup_env.py

demo: setup
	@$(BIN)/kindling demo

test: setup
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

ifdef PART
test-full: setup
	@$(BIN)/python -m pytest -m slow -k "$(PART)"
else
test-full: test
	@$(BIN)/python -m pytest -m slow
endif

# Only prints the commands: both programs run on after this command, and their ports may be in use already.
MONITORING = deploy/monitoring
monitoring:
	@if docker compose version >/dev/null 2>&1; then \
		echo "Prometheus and Grafana, by docker:"; \
		echo "    docker compose -f $(MONITORING)/compose.yml up -d"; \
	else \
		echo "There is no docker compose here. Prometheus$$(command -v prometheus >/dev/null || echo ' (apt install prometheus, or its plain binary)'):"; \
		echo "    prometheus --config.file=$(MONITORING)/prometheus.yml --storage.tsdb.path=prometheus-data --web.listen-address=127.0.0.1:9090"; \
		echo "Grafana, where its folder (its plain binary, unpacked) is GRAFANA:"; \
		echo "    KINDLING_DASHBOARDS=$(CURDIR)/$(MONITORING)/grafana/dashboards GF_PATHS_PROVISIONING=$(CURDIR)/$(MONITORING)/grafana/provisioning \\"; \
		echo "      GF_SERVER_HTTP_ADDR=127.0.0.1 GRAFANA/bin/grafana server --homepath GRAFANA"; \
	fi
	@echo "Then: http://127.0.0.1:9090/targets shows the jobs that run, http://127.0.0.1:3000/d/kindling the dashboard."
	@echo "Without either: curl http://127.0.0.1:9400/metrics, or the address in the log of the job. More: docs/watch.md"

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-annotate --no-header \
	--extra embedded --extra dev --excludes deploy/locks/excludes-embedded.txt
lock: setup
	$(COMPILE) --extra cpu deploy/locks/torch-cpu-needs.in --excludes deploy/locks/excludes-cpu.txt -o deploy/locks/cpu.txt
	$(COMPILE) --extra gpu -o deploy/locks/gpu.txt

# Each in an environment of its own, so that neither is a part of what it examines.
audit: setup
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --output-file sbom.cdx.json .venv
	$(BIN)/uv tool run pip-audit==2.10.1 --vulnerability-service osv --skip-editable --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
