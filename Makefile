# The two commands of the README are `make demo` and `make test`; each does its own set-up.
# Everything made here stays in .venv, target and .servers.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# One target folder and one profile for cargo and pip: librdkafka is compiled once.
FEATURES := --features failpoints

.PHONY: demo test lint unit servers packages model soak chaos planted bench audit headers system clean

# Builds, installs into .venv and shows the main job, with no server.
demo: headers $(VENV)/made
	$(BIN)/pip install --quiet .
	$(BIN)/onecommit demo

# Everything: style, types, floors, licences, unit and property tests, all tests against real
# servers (fetched, started on free ports and stopped here), packages built and used.
test: lint unit servers packages
	@echo "all tests passed"

lint: system $(VENV)/ready
	cargo fmt --check
	cargo clippy --locked --all-targets $(FEATURES) -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy python/onecommit
	$(BIN)/mypy tests/conftest.py tests/servers tests/e2e tests/chaos tests/python tests/shape tests/examples tests/documents tests/planted tests/bad_input tests/packages.py examples benches

# What needs no server.
unit: system $(VENV)/ready
	cargo test --locked $(FEATURES) --lib --bins
	cargo test --locked $(FEATURES) --doc
	cargo test --locked $(FEATURES) --test model
	cargo check --locked --no-default-features --features postgres
	$(BIN)/pytest tests/shape

# What needs the servers: Rust first, then Python.
servers: system $(VENV)/ready $(VENV)/develop
	cargo build --locked $(FEATURES)
	cargo test --locked $(FEATURES) --test rust --no-run
	$(BIN)/python -m tests.servers run --postgres-versions 13,18 -- tests/run-against-servers

# The wheel, the source distribution and the crate are built, installed elsewhere and used.
packages: system $(VENV)/ready
	$(BIN)/python -m tests.packages

# The protocol of transactions over several databases in large worlds, millions of states, and whole
# nodes in thousands of worlds at random: as in the tests, and for longer. make model SEEDS=200000 SEED_FIRST=0
SEEDS ?= 50000
SEED_FIRST ?= 0
model: headers
	ONECOMMIT_TEST_MODEL=large ONECOMMIT_TEST_SEEDS=$(SEEDS) ONECOMMIT_TEST_SEED_FIRST=$(SEED_FIRST) \
	  cargo test --locked --profile model --no-default-features --features postgres,relay --test model \
	  -- --nocapture --test-threads=1

# Relays and servers killed, paused and cut off at random, as in the tests and for longer:
# make soak SECONDS=3600 SEED=7
SECONDS ?= 900
SEED ?=
soak: system $(VENV)/ready
	cargo build --locked $(FEATURES)
	$(BIN)/python -m tests.e2e.random_run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Transactions over several databases: every named step with every fault, on real servers, and then
# the bank under all faults at random for SECONDS. Some alone: make chaos ONLY=decide,paused
ONLY ?= ,
chaos: system $(VENV)/ready $(VENV)/develop
	cargo build --locked $(FEATURES)
	$(BIN)/python -m tests.chaos --only $(ONLY) --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

# Each rule that keeps messages safe is left out once, in a copy of the tree: a test has to notice.
planted: system $(VENV)/ready
	$(BIN)/python -m tests.planted

# The relay beside a bare transactional producer and a poller, on real servers: docs/performance.md.
# A part alone: make bench PARTS="--only throughput,latency"
PARTS ?=
bench: system $(VENV)/ready
	$(BIN)/maturin develop --release --locked --quiet
	cargo bench --locked --bench relay -- $(PARTS)

# Known vulnerabilities; needs the network beyond the package registries.
audit:
	cargo audit
	$(BIN)/pip-audit

clean:
	rm -rf $(VENV) target .servers dist

# What the build needs, where it is missing and apt is there to bring it.
headers:
	@tests/install-system-packages

# What the tests need beside it: PostgreSQL and what plants faults.
system:
	@tests/install-system-packages postgresql

$(VENV)/made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/ready: $(VENV)/made pyproject.toml requirements-dev.lock
	$(BIN)/pip install --quiet --group dev --constraint requirements-dev.lock
	touch $@

# The extension module in the virtual environment, for the Python tests and type checks.
$(VENV)/develop: FORCE
	$(BIN)/maturin develop --locked --quiet --features python,failpoints
FORCE:
