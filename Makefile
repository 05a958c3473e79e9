# Needs make, git and Python 3.11 to 3.13; everything else is installed into .venv from requirements/.

PYTHON ?= python3
SEARCH ?= searches/cnn_loss.py
PRESET ?= laptop
DATA ?= data/mbh_sph
EVENTS ?= 6000
HEP_RAY_STORAGE ?= runs
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 20
CHAOS_ARGS ?=
STATISTICS_ARGS ?=

export HEP_RAY_STORAGE
# Every Ray worker imports torch: compile it once, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv/bin
INSTALLED := .venv/.installed
COMPILE := $(VENV)/uv pip compile --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
JOURNAL := $(HEP_RAY_STORAGE)/$(basename $(notdir $(SEARCH)))/journal.jsonl

.DEFAULT_GOAL := help
.PHONY: help env search test test-slow test-ui test-cluster searches-smoke fuzz chaos statistics lint fmt types ui bench \
	bench-gpu docs lock clean

help: ## Print the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

env: $(INSTALLED) ## Build .venv from the pinned, hashed requirements

$(INSTALLED): pyproject.toml requirements/lock.txt requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else \
		"hep_ray needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d: name another one with PYTHON=" % v)'
	test -x $(VENV)/python || $(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	$(VENV)/uv pip sync --python $(VENV)/python --require-hashes requirements/lock.txt
	$(VENV)/uv pip install --python $(VENV)/python --no-deps --no-build-isolation --editable .
	@touch $@

data/mbh_sph/manifest.json: | $(INSTALLED)
	$(VENV)/hep-ray data simulate mbh_sph --events $(EVENTS) --seed 1 --out data/mbh_sph

search: env $(DATA)/manifest.json ## Simulate events where absent, run (or resume) a search, print its leaderboard
	$(VENV)/python $(SEARCH) $(if $(wildcard $(JOURNAL)),--resume,--data $(DATA) --preset $(PRESET))

test: lint types ## Lint, types, and every test that is neither slow nor needs ssh
	$(VENV)/pytest -m "not slow and not cluster" $(PYTEST_ARGS)

test-slow: env ## The tests that take minutes
	$(VENV)/pytest -m slow $(PYTEST_ARGS)

test-ui: env ## MLflow's pages in a headless Chromium; screenshots go to artifacts/ui
	$(VENV)/pytest -m ui $(PYTEST_ARGS)

test-cluster: env ## Ray clusters over real ssh, in namespaces of their own; fails without root, sshd and rsync
	$(VENV)/pytest -m cluster $(PYTEST_ARGS)

searches-smoke: env ## Run every search's preset smoke to the end, on tiny simulated events
	$(VENV)/python tests/searches/smoke.py

fuzz: env ## Hostile bytes against every parser, FUZZ_SECONDS for each (default 20)
	$(VENV)/python tests/fuzz/campaign.py --seconds $(FUZZ_SECONDS)

chaos: env ## Kill at random what five searches run on, and audit what is left; takes a quarter of an hour
	$(VENV)/python -m tests.chaos.run $(CHAOS_ARGS)

statistics: env ## Simulate the gate and the searcher: one JSON line each, in under ten minutes
	@$(VENV)/python -m tests.statistics.run $(STATISTICS_ARGS)

lint: env ## Check style and format
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

fmt: env ## Format the code and mend what can be mended
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

types: env ## Check the types
	$(VENV)/mypy

ui: env ## Show the searches in MLflow's pages on 127.0.0.1
	$(VENV)/hep-ray ui

bench: env ## Run every benchmark but that of a GPU; each line is JSON with ours, the peer's and their ratio
	@for script in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do $(VENV)/python $$script || exit 1; done

bench-gpu: env ## The benchmark of an NVIDIA GPU, on a machine that has one
	@$(VENV)/python benchmarks/gpu.py

docs: env ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

lock: env ## Pin the requirements anew from pyproject.toml
	$(COMPILE) --all-extras --output-file requirements/lock.txt pyproject.toml
	$(COMPILE) --output-file requirements/uv.txt requirements/uv.in

clean: ## Remove .venv, caches and site/; data and searches stay
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
