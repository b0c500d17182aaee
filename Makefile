# Two commands matter: `make run` and `make test`. Each sets up what it needs in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One BLAS thread a process: on small matrices a threaded BLAS is up to ten times slower.
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1
WORKERS ?= auto
SEEDS ?= 50
PURE := tests/unit/domain tests/unit/alpha tests/unit/risk tests/unit/orderbook tests/unit/engine tests/unit/numerics tests/unit/scan

.PHONY: run research services feeds test test-full lint bench bench-page vectorbt coverage checked mutation clean survival chaos soak

run: $(VENV)/.core
	$(BIN)/dolphin run $(ARGS)

# What sweeps' statistics and the forewarner need beyond the core.
research: $(VENV)/.research

# What a system of processes on a Hazelcast grid needs beyond the core; the grid's member also wants Java.
services: $(VENV)/.services

# What live market data and the sky need beyond the core.
feeds: $(VENV)/.feeds

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not long" $(ARGS)

# Everything: the long tests, the pure packages without a compiler and with bounds checks, mutation.
test-full: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)
	$(MAKE) coverage checked mutation

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every line and branch of the pure packages, in plain Python.
coverage: $(VENV)/.dev
	DOLPHIN_KERNELS=plain $(BIN)/coverage run -m pytest -m "not long" -p no:randomly $(PURE)
	$(BIN)/coverage report --fail-under=100 --include='src/dolphin/domain/*,src/dolphin/numerics/*,src/dolphin/scan/*,src/dolphin/orderbook/*,src/dolphin/alpha/*,src/dolphin/risk/*,src/dolphin/engine/*'

# The same kernels compiled with bounds checks and division checks.
checked: $(VENV)/.dev
	DOLPHIN_KERNELS=checked $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not long" $(PURE)

mutation: $(VENV)/.dev
	$(BIN)/python tools/mutation.py

# Faults by seed: nine of ten simulated on one virtual clock, the others with real processes that are killed.
chaos: $(VENV)/.dev
	$(BIN)/python tools/chaos.py --seeds $(SEEDS) $(ARGS)

# The whole system at ten times its speed for half an hour: does any service's memory grow.
soak: $(VENV)/.dev
	$(BIN)/python tools/soak.py $(ARGS)

# Listeners on real Hazelcast members: members killed and restarted, whole clusters killed, ROUNDS times.
ROUNDS ?= 100
survival: $(VENV)/.dev
	DOLPHIN_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -p no:randomly tests/contract/test_grid_survival.py $(ARGS)

bench: $(VENV)/.core
	$(BIN)/python -m benchmarks $(ARGS)

# The same, and docs/benchmarks.md written from it; the yardstick of the simple rule included.
bench-page: $(VENV)/.core $(VENV)-vectorbt/.made
	$(BIN)/python -m benchmarks --write $(ARGS)

# vectorbt in an environment of its own: it wants other versions than we do.
vectorbt: $(VENV)-vectorbt/.made

clean:
	rm -rf $(VENV) $(VENV)-vectorbt build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "DOLPHIN needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12")'
	@echo "setting up .venv: about a minute, once"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.made requirements/core.txt requirements/build.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt -r requirements/core.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.research: $(VENV)/.core requirements/research.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/research.txt
	@touch $@

$(VENV)/.services: $(VENV)/.core requirements/services.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/services.txt
	@touch $@

$(VENV)/.feeds: $(VENV)/.core requirements/feeds.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/feeds.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.core requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)-vectorbt/.made: requirements/vectorbt.txt
	@echo "setting up .venv-vectorbt: a minute, once"
	$(PYTHON) -m venv $(VENV)-vectorbt
	$(VENV)-vectorbt/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
