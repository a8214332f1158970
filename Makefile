# The two front doors are `make demo` and `make test`. Each target makes the virtual
# environment it needs and is idempotent.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := build/demo

.PHONY: demo test check perf gpu format clean help validate-statistics tables

help:
	@echo "make demo    build a store from real models and images, fit, benchmark, draw the report"
	@echo "make test    check, then run every test"
	@echo "make check   ruff, formatting, mypy, import layers, spelling"
	@echo "make perf    speed, as ratios measured side by side (ONLY=store: one group)"
	@echo "make validate-statistics   simulate every interval and test; writes build/statistics.json"
	@echo "make tables  write the tables of docs/ from the demo and the validation that ran here"
	@echo "make gpu     on a machine with a GPU: rows against the CPU, speed against the bare model"

# The demo needs no test tools, and the tests need everything: two stamps, one environment.
.NOTPARALLEL:
$(VENV)/demo.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headstock needs Python 3.11 or newer; set PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Headstock needs Python 3.11 or newer; set PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp

$(VENV)/perf.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[perf]'
	@# Its pins (NumPy below 2, pyarrow below 16 ...) go with nothing here: its code alone is run.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps clip-retrieval==2.45.0
	@touch $@

demo: $(VENV)/demo.stamp
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docs/demo.py --out $(DEMO)

# A process a core, at most four: each loads torch. Modules stay whole until one has nothing to do.
test: check
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

perf: $(VENV)/perf.stamp
	$(BIN)/python -m tests.perf.run $(if $(ONLY),--only $(ONLY))

# On the demo's store too: its real draws, settings chosen each time.
$(DEMO)/store/catalog.json:
	$(MAKE) demo

validate-statistics: $(VENV)/dev.stamp $(DEMO)/store/catalog.json
	$(BIN)/python -m tests.validation --store $(DEMO)/store --out build/statistics.json

tables: $(VENV)/dev.stamp
	$(BIN)/python docs/tables.py collect --results $(DEMO)/results --statistics build/statistics.json
	$(BIN)/python docs/tables.py write

gpu: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m tests.gpu.run

clean:
	rm -rf build
