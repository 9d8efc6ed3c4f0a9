# The front door. Meson and Ninja do the work; `make help` lists what there is.
#
# Everything built lands in build/KIND; downloads and images that outlive a build in .cache.

BUILD       ?= build
PREFIX      ?= /usr/local
DESTDIR     ?=
FUZZ_SECONDS ?= 30
PYTHON      ?= /usr/bin/python3
MESON       := meson
NINJA       := ninja
DEPS        := tools/install-deps.sh

.DEFAULT_GOAL := all
.PHONY: all release debug demo check check-quick bench asan tsan ubsan fuzz fmt fmt-check tidy install clean distclean \
        help deps-build deps-test deps-demo deps-bench deps-dev

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

all: release ## build the release programs (build/release)

deps-build deps-test deps-demo deps-bench deps-dev: deps-%:
	@$(DEPS) $*

# $(call configure,KIND,OPTIONS): set build/KIND up once.
define configure
	@test -f $(BUILD)/$(1)/build.ninja || $(2) $(MESON) setup $(BUILD)/$(1) $(3)
endef

release: deps-build
	$(call configure,release,,--buildtype=release -Dprefix=$(PREFIX))
	@$(NINJA) -C $(BUILD)/release

debug: deps-build ## build the debug programs (build/debug)
	$(call configure,debug,,--buildtype=debug -Dprefix=$(PREFIX))
	@$(NINJA) -C $(BUILD)/debug

demo: deps-build deps-demo release ## boot four real guests from clones of one image
	@CREEDENCE_BUILD=$(BUILD)/release $(PYTHON) tools/demo

check: deps-build deps-test ## every test
	@$(PYTHON) tools/run-tests.py --build $(BUILD)

check-quick: deps-build deps-test ## the tests that take no guest and no sanitizer: under two minutes
	@$(PYTHON) tools/run-tests.py --build $(BUILD) --quick

bench: deps-build deps-bench deps-test release ## what it is worth on this machine
	@$(PYTHON) bench/run.py $(BENCH_ARGS)

asan: deps-build deps-test ## unit tests under the address and undefined-behaviour sanitizers
	@$(PYTHON) tools/run-tests.py --build $(BUILD) --only asan

ubsan: asan ## the same run: both sanitizers go together

tsan: deps-build deps-test ## unit tests under the thread sanitizer
	@$(PYTHON) tools/run-tests.py --build $(BUILD) --only tsan

fuzz: deps-build deps-test ## every libFuzzer target for FUZZ_SECONDS (30) each
	@$(PYTHON) tools/run-tests.py --build $(BUILD) --only fuzz --fuzz-seconds $(FUZZ_SECONDS)

C_FILES = $(shell git ls-files '*.c' '*.h')

fmt: deps-dev ## format the C sources
	clang-format -i $(C_FILES)

fmt-check: deps-dev ## fail when a C source is not formatted
	clang-format --dry-run -Werror $(C_FILES)

tidy: deps-dev release ## clang-tidy over the C sources
	@$(PYTHON) tools/tidy.py --build $(BUILD)/release

install: release debug ## both builds into PREFIX (/usr/local), `current` pointing at release
	@tools/install.sh "$(BUILD)" "$(PREFIX)" "$(DESTDIR)"

clean: ## remove what was built
	rm -rf $(addprefix $(BUILD)/,release debug asan tsan fuzz install)

distclean: clean ## ... and what was downloaded
	rm -rf .cache
