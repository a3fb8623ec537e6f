# Every target sets up what it needs in a virtual environment of its own; Python 3.11 or later is all that must be there.
# On Linux torch brings CUDA; a .venv that holds PyTorch's CPU build of that version already keeps it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: probe test coverage lint docs docs-check figures bench gpu wheel clean

# Times are those of two cores, without the installation.
probe: $(VENV)/.core  # 1 to 2 minutes
	$(BIN)/htf probe digits --ranks 1:8 --out runs/digits

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

coverage: $(VENV)/.test  # 10 minutes; every line is shown in htmlcov/index.html
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q --cov --cov-report=html --cov-report=term:skip-covered

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Executed pages are kept for as long as their code and the library do not change. What was built with warnings is read again
# the next time, so that they are not forgotten.
docs: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -j 2 -b html docs docs/_build/html \
	  || { rm -f docs/_build/html/.doctrees/environment.pickle; exit 1; }

# Every page in a browser, offline; needs a Chromium.
docs-check: docs $(VENV)/.pages
	$(BIN)/python docs/check_pages.py docs/_build/html

# Every figure of the results, from their files; nothing is trained.
figures: $(VENV)/.core
	$(BIN)/python -m benchmarks.figures

# Against peers: BENCH="--data-dir DATA --imp-reg-in-tf CHECKOUT --imp-reg-htf CHECKOUT", see README.md.
bench: $(VENV)/.core
	$(BIN)/python -m benchmarks.speed.probe $(BENCH)
	$(BIN)/python -m benchmarks.speed.ht

# On a machine with a GPU, in minutes; GPU="--minutes 8 --data-dir DATA", or "--device cpu --tiny" for a rehearsal.
gpu: $(VENV)/.core
	$(BIN)/python -m benchmarks.gpu --out runs/gpu $(GPU)

wheel: $(VENV)/.core
	$(INSTALL) build
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) docs/_build dist build .coverage htmlcov .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11; name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.docs $(VENV)/.pages: $(VENV)/.%: $(VENV)/.core
	$(INSTALL) --editable '.[$*]'
	@touch $@
