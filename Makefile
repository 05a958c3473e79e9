# Needs make, git and Python 3.11 to 3.13; everything else is installed into .venv from requirements/.

PYTHON ?= python3
SEARCH ?= searches/cnn_loss.py
PRESET ?= laptop
DATA ?= data/mbh_sph
# Preset `laptop` trains in bfloat16 where the processor multiplies in it, in half the time: elsewhere fewer events, so
# that `make search` takes less than ten minutes on two cores there too.
BFLOAT16 = $(shell grep -sowE -m1 "avx512_bf16|amx_bf16|bf16" /proc/cpuinfo)
EVENTS ?= $(if $(BFLOAT16),10000,4500)
HEP_RAY_STORAGE ?= runs
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
FUZZ_SECONDS ?= 20
CHAOS_ARGS ?=
STATISTICS_ARGS ?=
LOWEST := tests/conversion tests/dataset tests/losses tests/metrics tests/models tests/optim tests/tracking tests/training \
	tests/project/test_components.py tests/project/test_plugins.py tests/project/test_files.py

export HEP_RAY_STORAGE
# Every Ray worker imports torch: compile it once, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv/bin
INSTALLED := .venv/.installed
# The extra `bench` stays out of the pinned set: only the rivals of a benchmark want it.
EXTRAS := $(addprefix --extra ,cloud sim onnx postgres trees dev)
COMPILE := $(VENV)/uv pip compile --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
JOURNAL := $(HEP_RAY_STORAGE)/$(basename $(notdir $(SEARCH)))/journal.jsonl

.DEFAULT_GOAL := help
.PHONY: help env search test test-ray test-slow test-ui test-cluster test-lowest coverage searches-smoke studies studies-smoke fuzz \
	chaos statistics lint fmt types ui bench bench-gpu rival docs dist lock clean test-3.11 test-3.12 test-3.13

help: ## Print the targets
	@sed -n 's/^\([a-z][a-z0-9.-]*\)[^:=]*:.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
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

# Files of tests without Ray are shared out to processes of one thread; those with Ray use all cores themselves.
APART := -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not cluster and not ray and not ui"
test: lint types ## Lint, types, and every test that is not slow and needs neither ssh nor a browser
ifeq ($(strip $(PYTEST_ARGS)),)
	OMP_NUM_THREADS=1 $(VENV)/pytest $(APART)
	$(MAKE) --no-print-directory test-ray
else
	$(VENV)/pytest -m "not ui and not slow and not cluster" $(PYTEST_ARGS)
endif

# Only their files are read: reading all takes half a minute.
test-ray: env ## The part of make test that shares one session of Ray
	$(VENV)/pytest -m "ray and not ui and not slow and not cluster" $(PYTEST_ARGS) \
		$$(grep -rl --include="test_*.py" "mark\.ray" tests)

test-slow: env ## The tests that take longer
	$(VENV)/pytest -m slow $(PYTEST_ARGS)

test-ui: env ## MLflow's pages in a headless Chromium; screenshots go to artifacts/ui
	$(VENV)/pytest -m ui $(PYTEST_ARGS)

test-cluster: env ## Ray clusters over real ssh, in namespaces of their own; fails without root, sshd and rsync
	$(VENV)/pytest -m cluster $(PYTEST_ARGS)

test-3.11 test-3.12 test-3.13: test-%: env ## As `make test`, on another Python (3.11, 3.12, 3.13) that is installed
	@python=$$($(VENV)/uv python find --no-project $*) || { \
		echo "make: no Python $* here: install it, or put the folder of its python$* first in PATH" >&2; exit 2; }; \
	$(VENV)/uv venv --quiet --allow-existing --no-project --python "$$python" .venv-$*
	$(VENV)/uv pip sync --quiet --python .venv-$*/bin/python --require-hashes requirements/lock.txt requirements/uv.txt
	$(VENV)/uv pip install --quiet --python .venv-$*/bin/python --no-deps --no-build-isolation --editable .
	.venv-$*/bin/python -m pytest -m "not slow and not cluster" $(PYTEST_ARGS)

# Old versions of libraries use what is deprecated since; that is not what is tried here.
test-lowest: env ## Tests without Ray, on the lowest versions that pyproject.toml allows
	$(VENV)/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 $(EXTRAS) --no-header \
		--output-file .venv-lowest.txt pyproject.toml
	$(VENV)/uv venv --quiet --allow-existing --no-project --python 3.11 .venv-lowest
	$(VENV)/uv pip sync --quiet --python .venv-lowest/bin/python .venv-lowest.txt
	$(VENV)/uv pip install --quiet --python .venv-lowest/bin/python --no-deps --no-build-isolation --editable .
	.venv-lowest/bin/python -m pytest -m "not slow and not cluster and not ray and not ui" \
		-W ignore::DeprecationWarning $(LOWEST) $(PYTEST_ARGS)

# Counting lines takes a third more time, and nothing is counted in Ray's processes: only tests without Ray are counted.
coverage: env ## Tests without Ray, and how much of hep_ray they run, line by line in htmlcov/
	OMP_NUM_THREADS=1 $(VENV)/pytest $(APART) --cov --cov-report=html $(PYTEST_ARGS)
	@echo "Coverage of hep_ray by the tests without Ray: $$($(VENV)/coverage report --format=total) % of its lines"

searches-smoke: env ## Run every search's preset smoke to the end, on tiny simulated events and on real files
	$(VENV)/python tests/searches/smoke.py

studies: env ## Fill every study's own tables at laptop size: one JSON line per row; goes on where it was stopped
	@$(VENV)/python docs/scripts/studies.py

studies-smoke: env ## The same on few events and for one epoch, in minutes
	@$(VENV)/python docs/scripts/studies.py --smoke

fuzz: env ## Hostile bytes against every parser, FUZZ_SECONDS for each (default 20)
	$(VENV)/python tests/fuzz/campaign.py --seconds $(FUZZ_SECONDS)

chaos: env ## Kill at random what five searches run on, and audit what is left; takes a quarter of an hour
	$(VENV)/python -m tests.chaos.run $(CHAOS_ARGS)

statistics: env ## Simulate the gate and the searcher: one JSON line each, in under ten minutes
	@$(VENV)/python -m tests.statistics.run $(STATISTICS_ARGS)

lint: env ## Check style, format and spelling
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/codespell

fmt: env ## Format the code and mend what can be mended
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

types: env ## Check the types
	$(VENV)/mypy

ui: env ## Show the searches in MLflow's pages on 127.0.0.1
	$(VENV)/hep-ray ui

bench: env ## Run every benchmark but that of a GPU, lines of JSON as they come, and a table of ours and the peers' at the end
	@$(VENV)/python benchmarks/all.py $(BENCH)

rival: env ## Run a rival of the search benchmark in an environment of its own: make rival RIVAL=dehb SEEDS=5
	@$(VENV)/python benchmarks/rivals.py --own-environment --rivals $(RIVAL) --seeds $(or $(SEEDS),1)

bench-gpu: env ## The benchmark of an NVIDIA GPU, on a machine that has one
	@$(VENV)/python benchmarks/gpu.py

docs: env ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict

dist: env ## Build wheel and sdist into dist/, and try the wheel in an empty environment
	rm -rf dist
	$(VENV)/uv build --quiet --no-build-isolation --python $(VENV)/python --out-dir dist
	$(VENV)/pytest -m slow tests/project/test_dist.py

lock: env ## Pin the requirements anew from pyproject.toml
	$(COMPILE) $(EXTRAS) --output-file requirements/lock.txt pyproject.toml
	$(COMPILE) --output-file requirements/uv.txt requirements/uv.in

clean: ## Remove .venv, caches and site/; data and searches stay
	rm -rf .venv .venv-* .coverage htmlcov dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
