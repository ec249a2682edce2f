# make demo | test | test-all | test-observability | lint | faults | faults-long | bench | bench-cost | bench-check | install
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-all test-observability lint faults faults-long bench bench-cost bench-check format lock schemas clean

install: $(INSTALLED)

# One lock with hashes: what was tested is what is installed.
$(INSTALLED): compose/python.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r compose/python.lock
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

# Two workers, each with a Kafka of its own; a module's tests stay together. Threads of one that wait leave the other its core.
WORKERS ?= 2
PYTEST := OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope

test: install
	$(PYTEST)

# And the tests that take long for what they tell after an everyday change.
test-all: install
	$(PYTEST) -m "not bench and not observability"

# A real Prometheus (Debian's) and a real OpenTelemetry Collector (built by Go in two minutes, once) around the service.
test-observability: install
	$(BIN)/pytest -m observability

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install
	$(BIN)/python -m compose.demo

# Nothing lost, nothing twice: five minutes of faults, the same ones for the same SEED. JSON in .earwitness/faults.json.
SEED ?= 1
faults: install
	$(BIN)/python -m tests.faults --seed $(SEED) --out .earwitness/faults.json

# For longer: at these defaults some 100 kills and 20,000 events.
SECONDS ?= 1000
faults-long: install
	$(BIN)/python -m tests.faults --seed $(SEED) --scenes mixed --seconds $(SECONDS) --out .earwitness/faults-long.json

# The service, its engine alone and its peers on the same audio; OPTIONS as python -m tests.bench.engines --help has them.
bench: install
	$(BIN)/python -m tests.bench.engines --out .earwitness/bench.json $(OPTIONS)

# What a million minutes cost by the usual policy, and in other ways; 1 if the ledger is not what the API bills.
bench-cost: install
	$(BIN)/python -m tests.bench.cost --out .earwitness/bench-cost.json $(OPTIONS)

# The benchmarks themselves, on a few clips.
bench-check: install
	$(BIN)/pytest -m bench

# What pyproject.toml asks for to versions with hashes, for every platform.
lock: install
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --universal --generate-hashes --no-header --extra test --python-version 3.11 \
	  pyproject.toml -o compose/python.lock

# Contract models to JSON Schemas.
schemas: install
	$(BIN)/python -m schemas.generate

clean:
	rm -rf $(VENV) .earwitness
