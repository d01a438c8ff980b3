# Everything runs in .venv, made from the lock file with hashes. Needs Python 3.11 and make only.

PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := .venv/.ready
PURCHASES := $(CURDIR)/.venv/demo

.PHONY: help setup test lint demo bench bench-send bench-wecom bench-push lock

help:
	@echo "make setup   install into .venv"
	@echo "make test    run the test suite"
	@echo "make demo    start everything embedded and run the main job on real messages"
	@echo "make bench   measure on this machine (bench-send, bench-wecom, bench-push: only that)"
	@echo "make lint    check style"
	@echo "make lock    pin the newest allowed versions in the lock files"

setup: $(READY)

# The stamp is written last: an install that was cut off is done again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet --require-hashes --no-deps -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

# What only computes goes side by side, in so many processes; what starts servers has the machine.
WORKERS ?= 2
test: setup
	$(BIN)/python -m pytest -m "not nats and not ray" --numprocesses $(WORKERS) --dist loadfile
	$(BIN)/python -m pytest -m "nats or ray"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The demo's purchases come from the CDNOW sample that the Lifetimes package carries: data for the
# demo only, beside what is installed, so that nothing else depends on it or is checked with it.
demo: setup
	$(PIP) install --quiet --upgrade --require-hashes --no-deps --target $(PURCHASES) \
		-r requirements-demo.lock
	PYTHONPATH=$(PURCHASES) $(BIN)/python -m benchmarks.demo

bench: setup
	$(BIN)/python -m benchmarks.decide
	$(MAKE) bench-send
	$(MAKE) bench-wecom
	$(MAKE) bench-push

# Deliveries to SMS submitted: about ten minutes by itself.
bench-send: setup
	$(BIN)/python -m benchmarks.send

# Messages, callbacks and welcome messages at the fake WeCom: about ten minutes by itself.
bench-wecom: setup
	$(BIN)/python -m benchmarks.wecom

# Pushes at the fakes of FCM and APNs (this one needs Node): a few minutes by itself.
bench-push: setup
	$(BIN)/python -m benchmarks.push

# What builds the project is locked as well, because setup builds without isolation.
LOCK := $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock"
# Not after setup: that checks that what is installed fits pyproject.toml, which may have just changed.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet uv
	echo "setuptools>=77" | $(LOCK) pyproject.toml - --extra dev -o requirements.lock
	echo "lifetimes==0.11.3" | $(LOCK) - --no-deps -o requirements-demo.lock
