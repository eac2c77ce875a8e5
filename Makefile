# On a machine with Python >= 3.11, make and git, each of `make demo` and `make test` creates .venv, installs the
# pinned set (again only when pyproject.toml or constraints.txt changed) and runs.
#
#   make demo PYTHON=python3.12        another interpreter
#   make demo TORCH_INDEX=<url>        torch and torchvision from another index, e.g. one with CPU builds, which are
#                                      several GB smaller than the default CUDA builds; used when .venv is made
#   make test ARGS='-k ledger'         further arguments of pytest

PYTHON ?= python3
TORCH_INDEX ?=
ARGS ?=
# A part of the integration tests, by pytest mark; empty: all of them.
PART ?=
JOBS ?= 2

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-integration check bench bench-speed bench-method docs clean

help:
	@echo "make demo              render, damage, clean and judge a small corpus (offline, CPU)"
	@echo "make test              unit and property tests"
	@echo "make test-integration  tests that start servers (PART=smoke: the part that CI runs)"
	@echo "make check             ruff and mypy"
	@echo "make bench             throughput of scoring against plain embedding"
	@echo "make bench-speed       tables of docs/speed.md (DATA=dir: with real shards)"
	@echo "make bench-method      the tables of docs/method.md: the method against retraining (DATA=dir: real shards)"
	@echo "make docs              rewrite the generated pages, build the site into site/, check links and commands"
	@echo "make install           only make .venv"
	@echo "make clean             remove caches and what demo and bench wrote (.venv stays)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: ECIF needs Python >= 3.11, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu it needs the package python3-venv" >&2; exit 2; }
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --no-deps --index-url '$(TORCH_INDEX)' $$(grep -E '^torch(vision)?==' constraints.txt)
endif
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/ecif demo $(ARGS)

# One thread of arithmetic per test process: two processes with two threads each would wait for each other.
test: export OMP_NUM_THREADS ?= 1
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-integration: $(INSTALLED)
	$(BIN)/python -m pytest -m 'integration$(if $(PART), and $(PART))' tests/integration $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: export OMP_WAIT_POLICY ?= PASSIVE
bench: $(INSTALLED)
	$(BIN)/python -W ignore -m bench.throughput --work bench-out $(ARGS)
	$(BIN)/python -W ignore -m bench.memory --work bench-out

# About half an hour; those of docs/speed.md that ask for more (fit_size, growth to a million, precision) are run by hand.
bench-speed: export OMP_NUM_THREADS ?= 1
bench-speed: $(INSTALLED)
	$(BIN)/python -W ignore -m bench.startup
	$(BIN)/python -W ignore -m bench.decoded
	$(BIN)/python -W ignore -m bench.directions
	$(BIN)/python -W ignore -m bench.against --batch 16
	$(BIN)/python -W ignore -m bench.micro rate --sizes 32 64 128 --rounds 2
	$(BIN)/python -W ignore -m bench.endtoend --work bench-out $(if $(DATA),--data '$(DATA)') --pairs 64 --micro-batch 32
	$(BIN)/python -W ignore -m bench.planning --rows 1e5 1e6
	$(BIN)/python -W ignore -m bench.growth --work bench-out --sizes 1000 10000

# Hours in all; results are kept in bench-out/method, and a part that was broken off goes on. METHOD_PARTS='errors speed'
# runs some of it.
METHOD_PARTS ?= agreement brittleness editing errors sensitivity detection removal speed
DATA ?=
bench-method: export OMP_WAIT_POLICY ?= PASSIVE
bench-method: $(INSTALLED)
	for part in $(METHOD_PARTS); do \
	  $(BIN)/python -W ignore -m bench.method $$part --work bench-out/method $(if $(DATA),--data '$(DATA)') $(ARGS) || exit; \
	done

# Not a part of `make check`, which needs no more than .venv as `make install` leaves it. mkdocs counts no warning that
# --quiet hides, so it may talk.
docs: $(INSTALLED) .venv/.installed-docs
	$(BIN)/python -m docs.generate
	$(BIN)/python -W ignore -m docs.figures
	$(BIN)/python -m pytest tests/test_docs.py tests/test_site.py $(ARGS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m docs.site site

.venv/.installed-docs: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf demo-out bench-out build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
