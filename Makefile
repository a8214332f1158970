# The two front doors are `make demo` and `make test`. Each target makes the virtual
# environment it needs and is idempotent.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := build/demo
# Environments that are made anew each time.
FRESH  := build/fresh
# LOCKED=1 installs the versions of dev.lock; otherwise the ranges of pyproject.toml hold.
PINS   := $(if $(LOCKED),--constraint dev.lock)
DEV    := $(VENV)/dev$(if $(LOCKED),-locked).stamp
PIP    := -m pip install --quiet --disable-pip-version-check --no-compile
# What pip would do, on all cores at once; no package's own tests, nor the largest parts of which next
# to nothing is imported.
UNUSED := /(tests|moto|debugpy|transformers/models|ray/(rllib|serve|tune|train|llm))/
compiled = $(1)/bin/python -m compileall -qq -j 0 -x '$(UNUSED)' $(1)/lib || true

.PHONY: demo test test-fast test-minimal test-long check lock perf gpu gpu-wheels gpu-offline format clean help \
  validate-statistics tables faults docs mutants goldens test-lowest test-demo test-extend test-millions

help:
	@echo "make demo    build a store from real models and images, fit, benchmark, draw the report"
	@echo "make test    check, and run every test (LOCKED=1: with the versions of dev.lock)"
	@echo "make test-fast   for one's own loop, under two minutes of one core: lint, and the tests of"
	@echo "             the store, the closed forms, the metrics and the command line"
	@echo "make check   ruff, formatting, mypy, import layers, spelling, limits on size"
	@echo "make test-minimal   the tests that need no extra, in a new environment without any (LOWEST=1:"
	@echo "             with the lowest versions that pyproject.toml allows)"
	@echo "make test-long   every fault, long fuzzing, new environments, every simulation: hours"
	@echo "make lock    write dev.lock from this environment"
	@echo "make docs    build the documentation site, with its references: build/site/index.html"
	@echo "make perf    speed, as ratios measured side by side (ONLY=store: one group)"
	@echo "make validate-statistics   simulate every interval and test; writes build/statistics.json"
	@echo "make tables  write the tables and screens of docs/ from the demo and the validation that ran"
	@echo "make mutants   break lines one by one, of which the tests must see each"
	@echo "make goldens   pin rows, results and choices anew, after a change that is meant to change them"
	@echo "make faults  kill and refuse every command at every place, and run every other one in its"
	@echo "             gaps; writes docs/measurements/reliability.md"
	@echo "make gpu     on a machine with a GPU: rows against the CPU, speed against the bare model;"
	@echo "             gpu-offline: where there is no network, with what gpu-wheels has downloaded"

.NOTPARALLEL:
define python_is_new_enough
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Headstock needs Python 3.11 or newer; set PYTHON=python3.11"; exit 1; }
endef

# The demo needs no test tools, and the tests need everything: two stamps, one environment.
$(VENV)/demo.stamp: pyproject.toml
	@$(python_is_new_enough)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[demo]'
	$(call compiled,$(VENV))
	@touch $@

$(DEV): pyproject.toml $(if $(LOCKED),dev.lock)
	@$(python_is_new_enough)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) $(PINS) --editable '.[dev]'
	$(call compiled,$(VENV))
	@touch $@ $(VENV)/dev.stamp $(VENV)/demo.stamp

$(VENV)/perf.stamp: $(DEV)
	$(BIN)/python $(PIP) --editable '.[perf]'
	@# Its pins (NumPy below 2, pyarrow below 16 ...) go with nothing here: its code alone is run.
	$(BIN)/python $(PIP) --no-deps clip-retrieval==2.45.0
	@touch $@

$(VENV)/docs.stamp: pyproject.toml
	@$(python_is_new_enough)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable '.[docs]'
	@touch $@

# Fails on a broken link. The pages need no server and no network.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/docs.stamp
	$(BIN)/python -m mkdocs build
	@echo "open build/site/index.html"

demo: $(VENV)/demo.stamp
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/headstock reproduce demo --out $(DEMO)

define lint
$(BIN)/ruff check .
$(BIN)/ruff format --check .
$(BIN)/lint-imports
$(BIN)/codespell
$(BIN)/python tests/house.py
endef

# A process a core and one more, for those that wait for a server or a child; at most four: each
# loads torch. Modules stay whole until one has nothing to do.
SIDE_BY_SIDE = --dist worksteal --numprocesses \
  $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')

# mypy, a minute on one core, runs beside them. The packages are compiled once for all processes
# that tests start, also where PYTHONDONTWRITEBYTECODE is set.
test: $(DEV)
	$(lint)
	$(BIN)/python -m compileall -q headstock featstore fitters bench data_manifests
	@mkdir -p build
	$(BIN)/mypy > build/mypy.txt 2>&1 & types=$$!; \
	$(BIN)/python -m pytest $(SIDE_BY_SIDE); tests=$$?; \
	wait $$types; types=$$?; cat build/mypy.txt; exit $$((tests + types))

# Tests that start no process and no server, load no model, and take less than a second each.
FAST = tests/test_commands.py tests/featstore/manifest tests/featstore/store tests/featstore/test_options.py \
  tests/featstore/test_identity.py tests/featstore/test_cli_sets.py tests/fitters tests/bench/test_metrics_*.py \
  tests/bench/test_runs.py
NOT_FAST = $(addprefix tests/featstore/store/test_,convention.py hashes.py log.py nearest.py \
  readers.py revisions.py signature.py verify.py) $(addprefix tests/fitters/,few_shot trained \
  test_cache.py test_choice.py test_cli.py test_jobs.py test_mini_vec2vec.py test_ray_moments.py \
  test_suggest.py)
test-fast: $(DEV)
	$(lint)
	$(BIN)/python -m pytest -m "not slow" $(FAST) $(addprefix --ignore=,$(NOT_FAST))

# What needs an extra is skipped and says so; an import that no extra explains fails. LOWEST=1
# installs the lowest versions that pyproject.toml allows, with a Python that has them: 3.11.
test-minimal: export HEADSTOCK_FAULTS =
test-minimal: export HEADSTOCK_FUZZ_EXAMPLES = 100
test-minimal:
	@$(python_is_new_enough)
	$(PYTHON) -m venv --clear $(FRESH)/minimal
	$(PYTHON) tests/lowest.py test > $(FRESH)/lowest.txt
	$(FRESH)/minimal/bin/python $(PIP) $(if $(LOWEST),--constraint $(FRESH)/lowest.txt) \
	  --editable '.[test]'
	$(call compiled,$(FRESH)/minimal)
	$(FRESH)/minimal/bin/python -m pytest -p tests.minimal $(SIDE_BY_SIDE)

# Beside `make test`: hours. docs/data/test-long.txt says of each part that passed of which commit, and how long.
LONG = test faults docs mutants validate-statistics test-minimal test-lowest test-demo test-extend test-millions
test-long: export HEADSTOCK_FAULTS = all
test-long: export HEADSTOCK_FUZZ_EXAMPLES = 10000
test-long: export HEADSTOCK_TYPES = 1
test-long:
	@for part in $(LONG); do start=$$(date +%s); $(MAKE) $$part || exit 1; \
	  echo "$$(git rev-parse --short HEAD) $$part: $$(( $$(date +%s) - start )) s" >> docs/data/test-long.txt; done

test-lowest:
	$(MAKE) test-minimal LOWEST=1

# The demo in an environment of its own shows that `demo` is enough; the documents show its output.
test-demo: $(DEV)
	rm -rf $(FRESH)/demo $(FRESH)/out
	$(MAKE) demo VENV=$(FRESH)/demo DEMO=$(FRESH)/out
	$(BIN)/python -m tests.screens check --demo $(FRESH)/out
	HEADSTOCK_DEMO=$(FRESH)/out $(BIN)/python -m pytest tests/bench/test_end_to_end.py -k by_hand

test-extend: $(DEV)
	$(BIN)/python -m tests.extend

test-millions: $(DEV)
	$(BIN)/python -m tests.scaling.millions $(FRESH)/millions 1000000 check

check: $(DEV)
	$(lint)
	$(BIN)/mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(DEV)
	@mkdir -p build
	$(BIN)/python tests/lock.py > build/dev.lock
	mv build/dev.lock dev.lock

perf: $(VENV)/perf.stamp
	$(BIN)/python -m tests.perf.run $(if $(ONLY),--only $(ONLY))

# On the demo's store too: its real draws, settings chosen each time.
$(DEMO)/store/log.json:
	$(MAKE) demo

validate-statistics: $(DEV) $(DEMO)/store/log.json
	$(BIN)/python -m tests.validation --store $(DEMO)/store --out build/statistics.json

tables: $(DEV)
	$(BIN)/python -m tests.tables collect --results $(DEMO)/results --statistics build/statistics.json
	$(BIN)/python -m tests.tables write
	$(BIN)/python -m tests.screens write --demo $(DEMO)

# Ten of them are part of `make test`.
mutants: $(DEV)
	$(BIN)/python -m tests.mutants $(ONLY)

goldens: $(DEV)
	$(BIN)/python -m tests.goldens.write $(ONLY)

# Most of an hour on 2 cores.
faults: $(DEV)
	$(BIN)/python -m tests.faults.matrix --out docs/data/reliability.json
	$(BIN)/python -m tests.faults.matrix --more 20 40 20 5 --out docs/data/reliability_more.json
	$(BIN)/python -m tests.faults.interleavings --out docs/data/interleavings.json
	$(BIN)/python -m tests.tables write

gpu: $(DEV)
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m tests.gpu.run

# What a machine with Python 3.12, torch and timm lacks, to be carried there beside the tree: 62 MiB.
WHEELS = zarr donfig numcodecs google-crc32c msgspec polars polars-runtime-32 platformdirs
gpu-wheels: $(DEV)
	rm -rf build/wheels
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --dest build/wheels \
	    --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
	    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	    $$(grep -E "^($$(echo $(WHEELS) | tr ' ' '|'))==" dev.lock)
	du -sh build/wheels

# Without a network, by the Python that is there.
gpu-offline:
	python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
	    --target build/offline build/wheels/*.whl
	PYTHONPATH=build/offline:. python3 -m tests.gpu.run

clean:
	rm -rf build
