# Every target sets up what it needs: a virtual environment in .venv, with the package installed from here.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
BENCH_MINUTES ?= 60
KEEPING := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184

.PHONY: help demo test test-all sanitize lint bench bench-all coverage mutate size clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/cli: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[cli]'
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

sanitize: export LAYERMASK_CASES = 400
sanitize: .venv/dev  ## the compiled kernels under sanitizers, and for AArch64 where there is a cross compiler
	$(BIN)/pytest tests/test_kernels_elsewhere.py

test-all: lint  ## every test, the slow ones too
	$(BIN)/pytest -n 2 --dist worksteal

bench: export OMP_NUM_THREADS = $(shell nproc)
bench: .venv/dev  ## time everything, BENCH_MINUTES of the forward passes; goes on where it stopped; writes docs/benchmarks.md
	$(BIN)/python -W ignore benchmarks/forward.py --limit-minutes $(BENCH_MINUTES)
	$(KEEPING) $(BIN)/python -W ignore benchmarks/forward.py --limit-minutes $(BENCH_MINUTES) --only 'cpu/*/patches-[57]*/float32/b16/eager/*'
	for each in explaining overhead road start; do $(BIN)/python -W ignore benchmarks/$$each.py || exit; done

bench-all: export OMP_NUM_THREADS = $(shell nproc)
bench-all: .venv/dev  ## build and check the compiled kernels, time everything, within BENCH_MINUTES in all
	$(BIN)/python -W ignore benchmarks/all.py --minutes $(BENCH_MINUTES)
	$(BIN)/python benchmarks/page.py

coverage: .venv/dev  ## laws 1, 2, 5 and 9 over the models of eight libraries; writes docs/coverage.md and docs/works-with.md
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[coverage]'
	$(BIN)/python benchmarks/coverage.py

mutate: .venv/dev  ## break rules, engines and kernels one by one, and see that laws or tests notice; goes on where it stopped
	$(BIN)/python -W ignore tests/mutation/run.py

size:  ## how large the package is, and its budget
	$(PYTHON) tests/size.py

clean:
	rm -rf .venv out
