# The commands of this project. They need a Python and a C compiler; `make test` also needs the network, once.

PYTHON ?= python3
ifeq ($(origin CXX),default)
CXX := c++
endif
CFLAGS ?= -O2
CXXFLAGS ?= -O2
VENV ?= .venv
DIST ?= dist

PACKAGES := build/tdl_packages
HEADERS := $(wildcard native/*.h native/*.hpp)
LIBRARIES := $(patsubst native/%.c,build/lib%.so,$(wildcard native/*.c))
# Without a C++ compiler, only the packages in C are built.
ifneq ($(shell command -v $(CXX)),)
LIBRARIES += $(patsubst native/%.cpp,build/lib%.so,$(wildcard native/*.cpp))
endif

PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
EXECUTABLE := $(DIST)/spider-task-executor
STAGE := build/$(DIST)
# A path with a blank would be two words for make.
export INTERPRETER

.PHONY: demo packages test test-dist test-aarch64 test-musl lint bench soak fuzz dist clean $(EXECUTABLE)

demo: packages
	$(PYTHON) -m spider_executor run --package-dir $(PACKAGES) integration_test_tasks fibonacci 30

packages: $(LIBRARIES)
	@for library in $^; do \
		name=$${library#build/lib} && name=$${name%.so} && mkdir -p $(PACKAGES)/$$name && \
		cp --remove-destination $$library $(PACKAGES)/$$name || exit; \
	done

build/lib%.so: native/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fPIC -shared -o $@ $<

build/lib%.so: native/%.cpp $(HEADERS)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 $(CXXFLAGS) -fPIC -shared -o $@ $<

# dependency-groups reads the groups of pyproject.toml on every Python; the newest pip for CPython 3.8 cannot.
$(VENV)/.%: pyproject.toml
	[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install dependency-groups
	$(VENV)/bin/python -m dependency_groups $* >$(VENV)/$*.txt
	$(PIP) install --requirement $(VENV)/$*.txt
	@touch $@

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The first line starts INTERPRETER, or without one the python3 that env finds. Linux before
# 5.1 and gVisor read 127 bytes of it and drop the rest without a word, so it only imports
# `boot`, which is in the archive. The bytecode is for INTERPRETER if it is on this machine,
# otherwise for PYTHON. Other Pythons use the sources.
# Equal sources and Pythons give equal files: no times, modes, paths or hash seeds of this run
# are in them, and the order of the files is fixed (before CPython 3.12, zipapp takes the order
# of the directory).
BOOT := import sys;sys.path[:0]=sys.argv[1:2];import boot
LINE_MAX := 127
ifdef INTERPRETER
LINE := $(INTERPRETER) -ISc$(BOOT)
else
LINE := /usr/bin/env -S python3 -ISc "$(BOOT)"
endif
export LINE
MODULES := boot.py protocol.py spider_executor.py

$(EXECUTABLE):
	@case $$INTERPRETER in \
		*[[:space:]]*) echo "INTERPRETER: expected a path without blanks, found '$$INTERPRETER'"; exit 1;; \
		""|/*) ;; \
		*) echo "INTERPRETER: expected an absolute path, found '$$INTERPRETER'"; exit 1;; \
	esac
	@size=$$(printf '#!%s' "$$LINE" | wc -c); [ $$size -le $(LINE_MAX) ] || { \
		echo "INTERPRETER: the path is too long: the first line of the executable file would" \
			"have $$size bytes, and Linux before 5.1 reads $(LINE_MAX)"; exit 1; }
	@rm -rf $(STAGE) && mkdir -p $(STAGE) $(@D)
	cp protocol.py spider_executor.py $(STAGE)
	echo 'import sys, spider_executor; sys.exit(spider_executor.main(sys.argv[2:]))' >$(STAGE)/boot.py
	echo 'import sys, spider_executor; sys.exit(spider_executor.main())' >$(STAGE)/__main__.py
	cd $(STAGE) && PYTHONHASHSEED=0 $(or $(wildcard $(INTERPRETER)),$(PYTHON)) -m compileall -qb \
		--invalidation-mode unchecked-hash $(MODULES)
	cd $(STAGE) && chmod 644 *.py *.pyc && TZ=UTC touch -t 198001010000 *.py *.pyc
	cd $(STAGE) && TZ=UTC $(PYTHON) -c 'import sys, zipfile as z; a = z.ZipFile("zip", "w"); [a.write(f) for f in sys.argv[1:]]; a.close()' \
		__main__.py $(foreach module,$(MODULES),$(module) $(module)c)
	$(PYTHON) -m zipapp $(STAGE)/zip --output $@ --python "$$LINE"
	chmod 755 $@

# A fixed date in the archives: equal sources give equal files.
dist: $(EXECUTABLE) $(VENV)/.dist
	rm -f $(DIST)/*.whl $(DIST)/*.tar.gz
	SOURCE_DATE_EPOCH=315532800 $(VENV)/bin/python -m build --outdir $(DIST) . >build/dist.log || { cat build/dist.log; exit 1; }
	@ls $(DIST)

test-dist: dist packages
	.ci/test-dist $(PACKAGES)

test-aarch64: $(VENV)/.test
	PYTHON=$(abspath $(VENV))/bin/python tests/aarch64/run.sh $(PYTEST_ARGS)

test-musl: $(VENV)/.test
	PYTHON=$(abspath $(VENV))/bin/python tests/musl/run.sh $(PYTEST_ARGS)

bench:
	$(PYTHON) tests/bench/bench.py $(BENCH_ARGS)
	$(PYTHON) tests/bench/startup.py
	$(PYTHON) tests/bench/sdk.py

# That the memory of executors does not grow.
soak: $(VENV)/.test
	SPIDER_FUZZ_FULL=1 $(VENV)/bin/python -m pytest --timeout 3600 -k memory

# What `make test` does in short: mutated streams, damaged libraries, odd buffers, forks and exits, many times.
fuzz: $(VENV)/.test
	SPIDER_FUZZ_FULL=1 $(VENV)/bin/python -m pytest --timeout 3600 \
		-k "sdk or stream or memory or mutat or elf or threads_that_fork or threads_that_exit or exit_in_a_signal"

clean:
	rm -rf build dist $(VENV)
