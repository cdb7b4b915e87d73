# Every target sets up what it needs: a virtual environment in .venv, with the package installed from here.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-all lint bench coverage clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/cli: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[cli]'
	touch $@

.venv/dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@ .venv/cli

demo: export OMP_NUM_THREADS = $(shell nproc)
demo: .venv/cli  ## explain the bundled photograph with the embedded model, and say where the picture is
	$(BIN)/layermask explain src/layermask/assets/chelsea.jpg --out out/demo

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: lint  ## lint, types, and the tests that take minutes at most
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow'

test-all: lint  ## every test, the slow ones too
	$(BIN)/pytest -n 2 --dist worksteal

bench: .venv/dev  ## time layer masking against the plain model; writes docs/benchmarks.md
	for each in forward overhead road; do \
	  OMP_NUM_THREADS=$$(nproc) $(BIN)/python -W ignore benchmarks/$$each.py || exit; done

coverage: .venv/dev  ## laws 1, 2 and 5 over every torchvision and timm architecture; writes docs/coverage.md
	$(BIN)/python benchmarks/coverage.py

clean:
	rm -rf .venv out
