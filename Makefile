# Each target sets itself up: it makes the virtual environment and installs what it needs, once.
#   make serve   the server on port 3000, with the bundled model (no PyTorch is installed)
#   make test    every test
#   make check   format, lint and types
#   make kernels the fused kernels, into build/kernels; ORT_INCLUDE_DIR=..., CUDA=0: see export/kernels/Makefile
#   make bench   what the block costs on this machine: results/block_cost.json, engines.json

PYTHON ?= python3
VENV ?= .venv
PORT ?= 3000
# cpu or gpu: which ONNX Runtime is installed.
RUNTIME ?= $(shell nvidia-smi > /dev/null 2>&1 && echo gpu || echo cpu)

BIN := $(VENV)/bin
# Only the versions in constraints.txt are installed: they are the ones that were tested.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A stamp file says that an installation is there and no older than what it was made from.
SERVING := $(VENV)/.installed-serving-$(RUNTIME)
TESTING := $(VENV)/.installed-testing-$(RUNTIME)

.DEFAULT_GOAL := help
.PHONY: help serve test check kernels bench format clean

help:
	@sed -n 's/^#   //p' Makefile

serve: $(SERVING)
	BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml serve --port $(PORT)

test: $(TESTING)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(TESTING)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

kernels: $(TESTING)
	@$(MAKE) --no-print-directory -C export/kernels PYTHON=$(abspath $(BIN)/python) \
	  ORT_INCLUDE_DIR=$(abspath $(ORT_INCLUDE_DIR))

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
	@touch $@

$(TESTING): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what training, export and the tests need ($(RUNTIME)) into $(VENV): about 5 GB with PyTorch ..."
	@$(remove_other_runtime)
	@$(INSTALL) --editable ".[$(RUNTIME),openvino,train,export,timm,dev]"
	@touch $@ $(SERVING)

# onnxruntime and onnxruntime-gpu are one module under two names: the one that goes would take the other's files along.
define remove_other_runtime
if ls $(VENV)/.installed-*-$(if $(filter gpu,$(RUNTIME)),cpu,gpu) > /dev/null 2>&1; then \
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu && rm -f $(VENV)/.installed-*; fi
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
