# Two commands do everything: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard c_src/*.c c_src/*.h) c_src/build_ffi.py setup.py pyproject.toml
BOARD ?=
FUZZ_SECONDS ?= 10
FUZZ_LONG_SECONDS ?= $(if $(CI),60,$(FUZZ_SECONDS))

# Command or file, and the Debian package that has it.
TOOLS := qemu-system-arm:qemu-system-arm arm-none-eabi-gcc:gcc-arm-none-eabi clang:clang
CHECK_TOOLS := powerpc-linux-gnu-gcc:gcc-powerpc-linux-gnu qemu-ppc:qemu-user avr-gcc:gcc-avr simavr:simavr \
    /usr/powerpc-linux-gnu/include/stdio.h:libc6-dev-powerpc-cross /usr/lib/avr/include/avr/io.h:avr-libc
# PyTorch without CUDA, which PyPI does not have, for the system's Python: 150 MB, so tests go without it where they may.
ifdef CI
CHECK_TOOLS += /usr/lib/python3/dist-packages/torch/__init__.py:python3-torch
endif

.PHONY: demo test lint core-checks bench toolchain check-tools clean

demo: $(VENV)/.demo
	@board="$(BOARD)"; \
	if [ -z "$$board" ]; then \
	    if command -v qemu-system-arm >/dev/null && command -v arm-none-eabi-gcc >/dev/null; then board=microbit; \
	    else board=host; echo "No cross compiler or no QEMU: the same firmware runs as a process of this computer."; fi; \
	fi; \
	$(BIN)/tinydream demo --board "$$board" $(DEMO)

test: $(VENV)/.test lint core-checks
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The C core under strict warnings, its own tests and its fuzzers, with sanitizers.
core-checks: | check-tools
	$(MAKE) -C c_src strict test fuzz FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_LONG_SECONDS=$(FUZZ_LONG_SECONDS)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/personalise.py --readme README.md
	$(BIN)/python benchmarks/device.py --readme README.md
	$(BIN)/python benchmarks/codec.py --readme README.md
	$(BIN)/python benchmarks/images.py --readme docs/DESIGN.md
	$(BIN)/python benchmarks/reader.py --readme README.md
	$(BIN)/python benchmarks/linear.py --readme docs/DESIGN.md --plot docs/linear.png

# Debian packages: what is missing is installed where that is allowed, and named where it is not.
toolchain:
	@missing=""; \
	for pair in $(TOOLS); do \
	    command -v $${pair%%:*} >/dev/null || [ -e $${pair%%:*} ] || missing="$$missing $${pair##*:}"; \
	done; \
	[ -e /usr/share/doc/libnewlib-arm-none-eabi ] || ls /usr/lib/arm-none-eabi/newlib >/dev/null 2>&1 \
	    || missing="$$missing libnewlib-arm-none-eabi"; \
	ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer* >/dev/null 2>&1 || missing="$$missing libclang-rt-dev"; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	    || missing="$$missing python3-dev"; \
	[ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then echo "Missing:$$missing. Install them with this system's packages."; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=""; \
	elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then sudo="sudo"; \
	else echo "Missing, and not installed without root:$$missing"; exit 0; fi; \
	echo "Installing:$$missing"; \
	$$sudo apt-get update -qq || true; \
	case "$$missing" in *libclang-rt-dev*) \
	    apt-cache show libclang-rt-dev >/dev/null 2>&1 \
	        || missing=$$(echo "$$missing" | sed 's/libclang-rt-dev/libclang-rt-14-dev/');; \
	esac; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	    || echo "Could not install:$$missing"

# What only the core's checks need: machines that are not like this one.
check-tools:
	@$(MAKE) --no-print-directory toolchain TOOLS="$(TOOLS) $(CHECK_TOOLS)"

$(BIN)/python: | toolchain
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip

$(VENV)/.demo: $(CORE) | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[demo]'
	@touch $@

$(VENV)/.bench: $(CORE) | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[demo,bench]'
	@touch $@

$(VENV)/.test: $(CORE) | $(BIN)/python
	$(BIN)/python -m pip install -qq -e '.[demo,test]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build *.egg-info tinydream/_core* .mypy_cache .ruff_cache .pytest_cache
