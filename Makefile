# `make help` lists the targets. PYTHON chooses the interpreter that makes .venv (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-short test test-all mutate lint format bench bench-depth bench-gpu table1 report examples docs docs-serve \
	clean

help:  ## list the targets
	@grep -E '^[a-z0-9_-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv and install fglight with everything its targets need

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, $(PYTHON) is {v}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(READY)  ## train six cells on digits, two seeds each, and print them as one table (about 3 minutes)
	$(PY) -m fglight demo

demo-short: $(READY)  ## the demo in a minute: smaller networks, fewer epochs
	$(PY) -m fglight demo model.width=0.125 trainer.max_epochs=2

test: $(READY)  ## run the tests but the slow ones (some: make test ARGS=tests/test_layout.py)
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-all: $(READY)  ## run all tests
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

mutate: $(READY)  ## how many small errors in a file its tests catch: make mutate ARGS=fglight/runs/record.py
	$(PY) -m pip install --quiet -e '.[mutation]'
	$(PY) benchmarks/mutate.py $(ARGS)

lint: $(READY)  ## check style with ruff, types with mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)  ## format the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(READY)  ## time and memory of every estimator against backpropagation, into benchmarks/RESULTS.md
	$(PY) benchmarks/step_time.py --write

bench-depth: $(READY)  ## memory of a step over depth, into benchmarks/DEPTH.md and docs/figures
	$(PY) benchmarks/depth.py --write

bench-gpu: $(READY)  ## everything worth measuring on a GPU, in nine minutes, into benchmarks/GPU.md
	$(PY) benchmarks/gpu.py

table1: $(READY)  ## the paper's Table 1 with measured costs, into benchmarks/TABLE1.md
	$(PY) benchmarks/table1.py --write

TABLES := $(addprefix table,2 3 4 5 6 7 8 9 10 11 12)
FIGURES := $(addprefix figure,2 3 4 5 6 7 8 9)
STUDIES := $(addprefix study-,guesses continuum budget controls)
.PHONY: tables figures studies $(TABLES) $(FIGURES) $(STUDIES)

# table2 to table12: run what is missing of a table of the paper and show it beside the published numbers. ARGS goes to
# the sweep, as in: make table3 ARGS="data=digits seeds=1 model.width=0.25" or ARGS="hydra/launcher=ray".
# Where runs failed, the report has the others, and make fails after it; where the sweep was interrupted there is none.
run_and_report = $(PY) train.py -m $(1) $(ARGS); status=$$?; \
	test $$status -eq 130 || $(PY) -m fglight report $(2) && exit $$status

$(TABLES): table%: $(READY)
	$(call run_and_report,table=$*,--table $* --out reports/table$*)

$(FIGURES): figure%: $(READY)
	$(call run_and_report,figure=$*,--figure $* --out reports/figure$*)

$(STUDIES): study-%: $(READY)
	$(call run_and_report,study=$*,--study $* --out reports/study-$*)

tables: $(READY)  ## every table of the paper (one: make table3; scaled down: make table3 ARGS="data=digits seeds=1")
	$(call run_and_report,table=all)

figures: $(READY)  ## every figure of the paper (one: make figure4)
	$(call run_and_report,figure=all)

studies: $(READY)  ## every study beyond the paper (one: make study-guesses; scaled down: make study-guesses ARGS="model.width=0.5")
	$(call run_and_report,study=all)

report: $(READY)  ## tables, claims and figures of the runs in multirun/ and outputs/, into report/
	$(PY) -m fglight report

examples: $(READY)  ## the reports in docs/example, anew from the runs that are kept there
	$(PY) benchmarks/example_reports.py

docs: $(READY)  ## the documentation, into site/: open site/index.html
	$(VENV)/bin/zensical build --strict --clean $(ARGS)

docs-serve: $(READY)  ## show the documentation at http://localhost:8000, and what is changed in it
	$(VENV)/bin/zensical serve $(ARGS)

clean:  ## remove .venv and caches; runs stay
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache .mypy_cache .cache dist site
