# The commands of this project. `make demo` and `make test` need a Python, a C compiler and nothing else.

PYTHON ?= python3
CC ?= cc
ifeq ($(origin CXX),default)
CXX := c++
endif
CFLAGS ?= -O2
CXXFLAGS ?= -O2
VENV ?= .venv
PACKAGES := build/tdl_packages

# A group of pyproject.toml as arguments for pip; the pip of CPython 3.8 cannot read one itself.
group = $(shell sed -n '/^$(1) = \[/,/^\]/s/^ *"\(.*\)",$$/"\1"/p' pyproject.toml)

.PHONY: demo packages test test-dist test-aarch64 lint bench soak fuzz dist clean

demo: packages
	$(PYTHON) -m spider_executor run --package-dir $(PACKAGES) integration_test_tasks fibonacci 30

# $(1) a source file, $(2) its package, $(3) what compiles it
define package
packages: $(PACKAGES)/$(2)/lib$(2).so
$(PACKAGES)/$(2)/lib$(2).so: $(1) native/spider_tdl.h
	@mkdir -p $$(@D)
	$(3) -fPIC -shared -o $$@ $$<
endef
$(foreach source,$(wildcard native/*.c),$(eval $(call package,$(source),$(basename $(notdir $(source))),$(CC) $(CFLAGS))))
ifneq ($(shell command -v $(CXX)),)
$(foreach source,$(wildcard native/*.cpp),$(eval $(call package,$(source),$(basename $(notdir $(source))),$(CXX) -std=c++17 $(CXXFLAGS))))
endif

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(call group,test)
	@touch $@

$(VENV)/.lint: pyproject.toml $(VENV)/.test
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(call group,lint)
	@touch $@

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The executable file; INTERPRETER=/absolute/path/to/python3 makes it start faster, and without env.
dist/spider-task-executor: FORCE
	$(PYTHON) .ci/executable.py $@ $(INTERPRETER)

FORCE:

$(VENV)/.dist: pyproject.toml $(VENV)/.test
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(call group,dist)
	@touch $@

# A fixed date in the archives: equal sources give equal files.
dist: dist/spider-task-executor $(VENV)/.dist
	@mkdir -p build
	rm -f dist/*.whl dist/*.tar.gz
	SOURCE_DATE_EPOCH=315532800 $(VENV)/bin/python -m build --outdir dist . >build/dist.log || { cat build/dist.log; exit 1; }
	@ls dist

test-dist: dist packages $(VENV)/.lint
	.ci/test-dist $(VENV)/bin/mypy $(PACKAGES)

test-aarch64: $(VENV)/.test
	PIP="$(VENV)/bin/python -m pip" tests/aarch64/run.sh $(PYTEST_ARGS)

bench: packages build/bench/bench_sdk
	$(PYTHON) tests/bench/bench.py $(BENCH_ARGS)
	$(PYTHON) tests/overhead_instrument.py
	build/bench/bench_sdk

build/bench/bench_sdk: tests/sdk/bench_sdk.c native/spider_tdl.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $<

# What `make test` does in short: 20,000 mutated streams, and a million calls of tasks that return odd buffers.
fuzz: $(VENV)/.test
	SPIDER_FUZZ_FULL=1 $(VENV)/bin/python -m pytest --timeout 3600 tests/test_stream_fuzz.py tests/test_hostile_tasks.py -k "streams or leaks"

soak:
	$(PYTHON) tests/bench/soak.py

clean:
	rm -rf build dist $(VENV)
