# The list of commands; .ci/run calls lint, test and test-torch. Everything they install stays in .venv, target and .demo
# (torch: see scripts/torch-env).
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo test test-torch lint bench clean

VENV := .venv
BIN := $(VENV)/bin
# A build from nothing must use the versions that were tested; while editing, cargo may update the lock file.
LOCKED := $(if $(CI),--locked)
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

help:
	@echo 'make demo        convert a small model, generate from it through a cache of half its size'
	@echo 'make test        Rust and Python tests, without torch'
	@echo 'make test-torch  parity with transformers, in an environment with torch (5.3 GB, shared by clones)'
	@echo 'make lint        formatters, linters, types, the stub of the Rust module'
	@echo 'make bench       inner loops and conversion, briefly; names the long benchmarks that are run by hand'
	@echo 'make clean       remove what the others built here'

$(VENV)/packages: constraints/test.txt
	@echo '# installing Python packages into $(VENV), about half a minute and 150 MiB'
	python=$$(scripts/prerequisites) && "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install -r $<
	touch $@

# Tests that compute logits, run again on narrower registers than the machine has.
COMPUTING := $(addprefix tests/test_,parity.py chunks.py threads.py)

# Editable: Python sources count at once, the Rust module is rebuilt when its sources changed.
$(VENV)/core: $(VENV)/packages pyproject.toml Cargo.toml Cargo.lock $(shell find src -name '*.rs')
	@scripts/prerequisites >/dev/null
	@echo '# compiling the Rust core: about two minutes the first time, half of them without a word'
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release $(LOCKED)
	touch $@

$(VENV)/lint $(VENV)/plot: $(VENV)/%: constraints/%.txt $(VENV)/packages
	$(BIN)/python -m pip install -r $<
	touch $@

demo: $(VENV)/core
	@$(BIN)/python examples/demo.py

test: $(VENV)/core $(VENV)/plot
	cargo test $(LOCKED)
	$(BIN)/python -m pytest
	for set in portable avx2; do scripts/test-isa $(BIN)/python $$set $(COMPUTING); done
	@echo 'not run here: tests/torch (make test-torch)'

test-torch: $(VENV)/core
	python=$$(scripts/torch-env) && PYTHONPATH=$(CURDIR)/python "$$python" -m pytest tests/torch

lint: $(VENV)/core $(VENV)/lint
	cargo fmt --check
	cargo clippy $(LOCKED) --all-targets -- -D warnings
	cargo clippy $(LOCKED) --all-targets --features python -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	scripts/check-stub $(LOCKED)
	scripts/check-tree

bench: $(VENV)/core
	cargo bench $(LOCKED) -- --quick
	$(BIN)/python benches/convert_memory.py --gigabytes 0.1
	@echo 'not run here: the format decision, half an hour beside llama.cpp (benches/quality/README.md)'
	@echo 'nor benches/capped.py, an hour beside llama.cpp under a memory cgroup'
	@echo 'nor benches/decode.py, hours beside llama.cpp with everything in memory'
	@echo 'nor benches/striped.py, two minutes as root on two emulated devices'

clean:
	rm -rf $(VENV) target .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python tests benches examples -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/m2cache_rs/*.so
