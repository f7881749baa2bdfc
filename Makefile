# `make table1` and `make test` set up everything they need, on a fresh clone too.
PYTHON ?= python3
SCALE ?= mini
BIN := .venv/bin
READY := .venv/.ready

.PHONY: table1 test lint clean help
help:
	@echo "make table1 [SCALE=mini]   train and evaluate what is missing, write results/SCALE/table1.*"
	@echo "make test                  lint, type-check and run all tests"
	@echo "make clean                 remove the environment and the stored runs"

table1: $(READY)
	mkdir -p results/$(SCALE)
	$(BIN)/papermill notebooks/table1.ipynb results/$(SCALE)/table1.ipynb -p params $(SCALE) \
		--log-output --no-progress-bar

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt -e ".[notebooks,dev]"
	touch $@

clean:
	rm -rf .venv results/*/runs
