# Oqim's verbs. `make` alone lists them. Needs Python 3.11 or later, Rust and a C compiler; whatever else
# is used is installed into .venv by the first verb that needs it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(PATH):$(HOME)/.cargo/bin

VENV := .venv/bin
# Handed on: `make run ARGS="--workers 2"`.
ARGS ?=

.PHONY: help
help: ## List the verbs
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo
	@echo '  PYTHON=/path/to/python3 chooses the Python that .venv is made with; ARGS="..." is handed on.'

.PHONY: run
run: build ## Start the sandbox: PostgreSQL, Valkey, processor simulators, gateway
	@exec $(VENV)/oqim sandbox $(ARGS)

.PHONY: build
build: ## Bring .venv and the compiled module up to date
	@python=$$(scripts/find-python) && "$$python" scripts/setup.py

# The engine is tested beside the build: that waits for packages, and links on one core.
.PHONY: test
test: ## Build, then run every test
	@$(MAKE) --no-print-directory --jobs=2 build test-rust
	@$(MAKE) --no-print-directory test-python

# The engine alone: the binding has no rules to test, and its test program would have to link libpython,
# which many Pythons do not bring; the Python tests go through it. Cargo has cores of its own to count, and
# would miss the tokens that make hands to none but other makes.
.PHONY: test-rust
test-rust:
	env -u MAKEFLAGS -u MFLAGS cargo test --quiet --package oqim-engine

# Two files at a time, since most tests wait for processes; what compares times runs alone. Status 5 is
# pytest's word for ARGS that name none of these. The tests start hundreds of Pythons: what these
# have compiled is kept, also where the environment forbids it.
.PHONY: test-python
test-python: export PYTHONDONTWRITEBYTECODE :=
test-python: build
	$(VENV)/python -m pytest -q -n 2 --dist loadfile -m "not alone" $(ARGS) || [ $$? -eq 5 ]
	$(VENV)/python -m pytest -q -m alone $(ARGS) || [ $$? -eq 5 ]

# As many seeds as SEEDS says; `make test` runs one. The table of what was tried is printed, and
# with TABLE=docs/reliability.md written there.
SEEDS ?= 3
TABLE ?=

.PHONY: faults
faults: build ## Break everything on purpose, SEEDS times; every invariant must hold afterwards
	OQIM_SEEDS=$(SEEDS) OQIM_FAULTS_TABLE=$(TABLE) \
		$(VENV)/python -m pytest -q -n 2 --dist loadfile -p tests.faults.rows -m fault tests $(ARGS)

.PHONY: check
check: build ## Linters, formatters and types, for Python and Rust; nothing is changed
	$(VENV)/ruff check
	$(VENV)/ruff format --check
	$(VENV)/mypy
	$(VENV)/lint-imports
	cargo fmt --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings

.PHONY: lint-fix
lint-fix: build ## Format, and mend what the linters can mend by themselves
	$(VENV)/ruff check --fix
	$(VENV)/ruff format
	cargo fmt

.PHONY: lock
lock: build ## Write requirements.lock anew from pyproject.toml, with the hash of every file
	scripts/lock

.PHONY: sbom
sbom: build ## Write the bill of materials (CycloneDX) to dist/, after checking every licence
	$(VENV)/python scripts/bill.py write dist/oqim.cdx.json

.PHONY: fuzz
fuzz: ## Look for bytes that the core reads wrongly, three minutes a target (needs nightly Rust and cargo-fuzz)
	cd core_rs/engine && for target in json_body token iso8583 rules_file history stored; do \
		mkdir -p fuzz/corpus/$$target && cargo +nightly fuzz run $$target fuzz/corpus/$$target \
			tests/corpus/$$target -- -max_total_time=180 -max_len=4096 || exit 1; \
	done

# ROW="visa-64 token" names rows, or what they begin with; without it all are run, in less than fifteen
# minutes, and docs/performance.md and README.md are written.
ROW ?=

.PHONY: bench
bench: build ## Measure against peers in one run; ROW=visa-64 or ROW=visa for some rows
	$(VENV)/oqim bench $(ROW) $(ARGS)

# KIND=latency, soak, spike, overload, failing-processor or failover; ARGS="--minutes 5 --strict", say.
KIND ?= latency

.PHONY: drill
drill: build ## Make trouble under load and check that everything holds; KIND=latency, soak, spike, overload, ...
	$(VENV)/oqim drill $(KIND) $(ARGS)

# Into the sandbox that `make run` started; SEEDED says who they are, for loadtests/.
USERS ?= 100000
SEEDED ?= var/seeded.json

.PHONY: seed
seed: build ## Give the running sandbox USERS=100000 more users, each with a card of every scheme
	$(VENV)/python loadtests/seed.py $${OQIM_DATA_DIR:-var}/sandbox.json $(USERS) $(SEEDED)

.PHONY: profile
profile: build ## Draw where the gateway's time goes under load: dist/profile.svg
	$(VENV)/oqim profile $(ARGS)

.PHONY: wheel
wheel: build ## Build the wheel into dist/, and run the tests against it, installed elsewhere
	$(VENV)/python scripts/check_wheel.py $(ARGS)
