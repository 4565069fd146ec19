# Each target sets itself up: it makes the virtual environment and installs what it needs, once.
#   make serve   the server on port 3000, with the bundled model (no PyTorch is installed)
#   make bento   the Bento, into BentoML's store: the service alone, with what it needs pinned (RUNTIME=gpu: for a GPU)
#   make image   a container image of it, self-gradient-network:cpu or :gpu (IMAGE=name:tag, CONTAINER=podman)
#   make ray-image  a container image for the Ray jobs of deploy/ray, self-gradient-network:ray (RAY_IMAGE=name:tag)
#   make test    every test but those marked thorough or slow
#   make test-thorough  the tests marked thorough: whole programs, clusters and compilers; .ci/run runs them too
#   make test-slow  the tests marked slow: each takes minutes, or is much like one that always runs
#   make check   format, lint, which package imports which, and types
#   make check-results  committed figures against the tables and sentences that show them
#   make coverage  the tests of make test and make test-thorough, and which lines of the programs they run: the total and the ten lowest files
#   make docs    the documentation as a site, in build/site (make docs-serve: at http://127.0.0.1:8000)
#   make constraints  constraints.txt, with what pyproject.toml newly asks for (UPGRADE=--upgrade: everything anew)
#   make kernels the fused kernels, into build/kernels; ORT_INCLUDE_DIR=..., CUDA=0: see export/kernels/Makefile
#   make gpu     what to do with MINUTES of a GPU: tests, figures, training on DATA, attacks; all results in OUT
#   make bench   what the block costs on this machine: results/block_cost.json, engines.json

PYTHON ?= python3
VENV ?= .venv
PORT ?= 3000
# 0.0.0.0 for every network; then set SGN_API_TOKEN too.
HOST ?= 127.0.0.1
# cpu or gpu: which ONNX Runtime is installed.
RUNTIME ?= $(shell nvidia-smi > /dev/null 2>&1 && echo gpu || echo cpu)

# What make gpu does; REHEARSE=1 does it tiny on the CPU, and then needs no DATA.
MINUTES ?= 9
DATA ?=
OUT ?= build/gpu
REHEARSE ?=

# What image is built, and with what.
IMAGE ?= self-gradient-network:$(RUNTIME)
RAY_IMAGE ?= self-gradient-network:ray
RAY_BUILD ?=
CONTAINER ?= docker

BIN := $(VENV)/bin
# Only the versions in constraints.txt are installed: they are the ones that were tested.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A stamp file says that an installation is there and no older than what it was made from.
SERVING := $(VENV)/.installed-serving-$(RUNTIME)
TESTING := $(VENV)/.installed-testing-$(RUNTIME)

.DEFAULT_GOAL := help
.PHONY: help serve bento image ray-image test test-training test-judging test-service test-bulk test-hostile test-export test-benchmarks test-rest test-thorough test-slow coverage check check-results docs docs-serve constraints kernels gpu bench format clean

help:
	@sed -n 's/^#   //p' Makefile

serve: $(SERVING)
	BENTOML_DO_NOT_TRACK=True $(BIN)/python -m sgn_serve --host $(HOST) --port $(PORT)

bento: $(SERVING)
	@$(BIN)/python -m deploy.bento_requirements $(RUNTIME) build/bento-requirements.txt
	BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml build --output tag

define need-container
@$(CONTAINER) info > /dev/null 2>&1 || { \
  echo "error: $(CONTAINER) is missing, or its daemon cannot be reached; start it, or name another one: make $@ CONTAINER=podman" >&2; exit 1; }
endef

image:
	$(need-container)
	@$(MAKE) --no-print-directory bento
	$(CONTAINER) build --file deploy/Dockerfile --tag $(IMAGE) \
	  --build-arg PYTHON=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])') \
	  "$$($(BIN)/bentoml get robust_classifier:latest --output path)"

ray-image:
	$(need-container)
	@$(MAKE) --no-print-directory $(SERVING)
	rm -rf build/ray-image
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/ray-image .
	cp constraints.txt build/ray-image
	$(CONTAINER) build --file deploy/ray/Dockerfile --tag $(RAY_IMAGE) $(RAY_BUILD) build/ray-image

# A process for each part: in one, compilers and runtimes that never meet in use (AOTInductor, OpenVINO, ONNX Runtime with
# our kernels, a browser's driver) would share it with the trainings, and once they brought it down.
PARTS := "tests/training" "tests/export" "tests --ignore tests/training --ignore tests/export"
PYTEST := -m pytest -rfEs --durations=15 $(PYTEST_ARGS)

# Six parts at a time, the longest first: whichever ends takes the next, so that all end at about the same time. Tests
# of servers wait about as long as they compute, so that two cores have room for six. With fewer or longer parts, the
# last ran alone for minutes, on one core. Every line says whose it is.
# Tests call make themselves, which must not take itself for a part of this one.
OUTSIDE := env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL
LANE = mkdir -p $(LOGS) && $(OUTSIDE) bash -o pipefail -c \
  '$(BIN)/python $(PYTEST) $(MARKED) $(1) 2>&1 | tee "$(LOGS)/$(2).log" | sed -u "s/^/$(2) | /"$(NONE_MARKED)'
LOGS := build/tests
MARKED :=
# Status 5: no test of that part is marked so.
NONE_MARKED = $(if $(MARKED), || [ $$? = 5 ])

# What failed is said again at the end, because the parts' lines mingle.
define in-lanes
@rm -rf $(1); status=0; began=$$(date +%s); \
$(MAKE) --no-print-directory --keep-going --jobs=6 LOGS=$(1) MARKED='$(2)' \
  test-export test-bulk test-judging test-hostile test-service test-rest test-training test-benchmarks || status=$$?; \
tail -qn 1 $(1)/*.log; grep -hE "^(E  |FAILED|ERROR)" $(1)/*.log | tail -n 60; \
echo "make $@ took $$(($$(date +%s) - began)) s"; exit $$status
endef

test: $(TESTING)
	$(call in-lanes,$(LOGS))

test-thorough: $(TESTING)
	$(call in-lanes,build/tests-thorough,-m "thorough and not slow")

JUDGING := $(addprefix tests/training/,attacks convert evaluate foreign reproduce)
test-training:
	@$(call LANE,tests/training $(addprefix --ignore ,$(JUDGING)),training)

test-judging:
	@$(call LANE,$(JUDGING),judging)

test-export:
	@$(call LANE,tests/export,export)

test-benchmarks:
	@$(call LANE,tests/benchmarks tests/release,benchmarks and release)

HOSTILE := tests/sgn_serve/test_fuzz.py tests/sgn_serve/test_largest_pictures.py tests/sgn_serve/ui
BULK := $(addprefix tests/sgn_serve/,classify decoder_processes inference pictures process serving)
test-service:
	@$(call LANE,tests/sgn_serve tests/deploy $(addprefix --ignore ,$(HOSTILE) $(BULK)),service)

test-bulk:
	@$(call LANE,$(BULK),bulk scoring and what serves)

test-hostile:
	@$(call LANE,$(HOSTILE),hostile files and the page)

test-rest:
	@$(call LANE,tests $(addprefix --ignore tests/,training export benchmarks release sgn_serve deploy),the rest)

# Status 5: no test of that part is marked slow.
test-slow: $(TESTING)
	@status=0; for part in $(PARTS); do \
	$(OUTSIDE) $(BIN)/python $(PYTEST) -m slow $$part || [ $$? = 5 ] || status=1; done; exit $$status

coverage: $(TESTING)
	@rm -rf build/coverage && mkdir -p build/coverage
	@status=0; for part in $(PARTS); do $(OUTSIDE) $(BIN)/coverage run $(PYTEST) -m "not slow" $$part || status=1; done; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report --sort=cover > build/coverage/report.txt; \
	echo "The ten files of which the tests run the least; all of them are in build/coverage/report.txt:"; \
	sed -n '1,12p' build/coverage/report.txt; tail -n 1 build/coverage/report.txt; exit $$status

check: $(TESTING)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

check-results: $(TESTING)
	$(BIN)/python $(PYTEST) tests/test_results.py

# By python -m, so that the generator of the pages (docs/generator) is found. The variable: no advertisement of another program.
docs: $(TESTING)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: $(TESTING)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --strict

# For every Python and system that pyproject.toml allows, with the versions that stand there already where they still fit.
# Names of registries and hashes stay out: whoever installs has a registry of their own.
constraints: | $(BIN)/python
	@$(INSTALL) uv
	@mkdir -p build && cp constraints.txt build/constraints.txt
	$(BIN)/uv pip compile --quiet --universal --all-extras --no-header --no-annotate --no-emit-index-url $(UPGRADE) \
	  --output-file build/constraints.txt pyproject.toml
	@{ grep '^#' constraints.txt; cat build/constraints.txt; } > build/constraints.new && mv build/constraints.new constraints.txt

kernels: $(TESTING)
	@$(MAKE) --no-print-directory -C export/kernels PYTHON=$(abspath $(BIN)/python) \
	  ORT_INCLUDE_DIR=$(abspath $(ORT_INCLUDE_DIR))

# A machine with a GPU may reach no network: nothing is installed, and without a virtual environment PYTHON runs it.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m release.gpu --out $(OUT) \
	  $(if $(REHEARSE),--rehearse,--minutes $(MINUTES)) $(if $(DATA),--data $(DATA))

bench: $(TESTING)
	$(BIN)/python -m benchmarks.block_cost
	$(BIN)/python -m benchmarks.engines

format: $(TESTING)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build/kernels

$(SERVING): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what serving needs ($(RUNTIME)) into $(VENV) ..."
	@$(remove_other_runtime)
	@$(INSTALL) --editable ".[$(RUNTIME)]"
	@$(only_one_runtime)
	@touch $@

$(TESTING): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what training, export, the documentation and the tests need ($(RUNTIME)) into $(VENV): about 5 GB with PyTorch ..."
	@$(remove_other_runtime)
	@$(INSTALL) --editable ".[$(RUNTIME),openvino,heic,train,export,timm,docs,dev]"
	@$(only_one_runtime)
	@touch $@ $(SERVING)

# onnxruntime and onnxruntime-gpu are one module under two names: the one that goes would take the other's files along.
define remove_other_runtime
if ls $(VENV)/.installed-*-$(if $(filter gpu,$(RUNTIME)),cpu,gpu) > /dev/null 2>&1; then \
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu && rm -f $(VENV)/.installed-*; fi
endef

# An extra adds to the dependencies and takes none away, so for a GPU both are installed: they go, and one comes back.
define only_one_runtime
if [ $(RUNTIME) = gpu ]; then \
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu && $(INSTALL) --no-deps onnxruntime-gpu; fi
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
