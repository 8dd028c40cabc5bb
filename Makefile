# m6rec's commands; `make help` lists them. Needs python3 (3.11 or newer) and make, nothing else.
NB ?=
ONLY ?=
ARGS ?=
PYTHON ?= python3
CLASS ?= class
PY := .venv/bin/python
# Threads that spin while they wait slow everything beside another busy process; notebooks import torch before m6rec.
export OMP_WAIT_POLICY ?= PASSIVE
ifeq ($(OMP_WAIT_POLICY),PASSIVE)
export GOMP_SPINCOUNT ?= 1000
endif
# A container may forbid to keep compiled modules. Every process would compile PyTorch again, 20 s each.
export PYTHONDONTWRITEBYTECODE :=
# The name of the stamp says what was installed and where: a second `make` installs nothing, a changed version or place does.
SUM := $(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | cut -d' ' -f1)
STAMP := .venv/installed-$(SUM)
TESTED := .venv/tested-$(SUM)
# --no-compile: Python compiles a module when it is first imported, and most never are.
INSTALL = $(PY) -m pip install --no-compile --disable-pip-version-check --progress-bar on -c constraints.txt -e

.DEFAULT_GOAL := help
.PHONY: help run test fuzz lint lab class results page notebooks weights cuda

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'NB=03_context_attention takes one notebook, ARGS="hour=21 seed=1" gives it parameters (run) or options (test, fuzz, lab).'
	@echo '.venv/bin/python -m m6rec --help names the other commands: sweep, recommend.'

run: $(STAMP) ## execute the notebooks into runs/<time>/, print recommendations, write runs/latest/index.html [NB, ARGS]
	@$(PY) -m m6rec run $(NB) $(ARGS)

test: lint ## lint, unit tests, every notebook executed and compared, the wheel [ARGS]
	@$(PY) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(ARGS)

fuzz: $(TESTED) ## thousands of generated tables and requests: each answered, or refused in a sentence [ARGS]
	@$(PY) tests/fuzz.py $(ARGS)

lint: $(TESTED) ## ruff, on the package, the tests and the notebooks
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

lab: $(STAMP) ## open JupyterLab on the notebooks [ARGS]
	@JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks:$$JUPYTER_CONFIG_PATH" $(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks $(ARGS)

class: $(STAMP) ## write copies for students, without solutions and teaching notes, into class/ [NB]
	@test ! -e $(CLASS) || { echo "$(CLASS) is there already: move it away for new copies." >&2; exit 1; }
	@for nb in $(NB); do test -f notebooks/$$nb.ipynb || { echo "notebooks/$$nb.ipynb is missing." >&2; exit 2; }; done
	@$(PY) -m nbconvert --log-level=WARN --to=notebook --output-dir=$(CLASS) --ClearOutputPreprocessor.enabled=True \
	  --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=solution \
	  --TagRemovePreprocessor.remove_cell_tags=instructor $(NB:%=notebooks/%.ipynb) \
	  $(if $(NB),,$(wildcard notebooks/[0-9]*.ipynb))

results: $(STAMP) ## measure at full size into notebooks/results/, minutes to hours [NB, ONLY]
	@$(PY) notebooks/refresh.py --full $(NB) $(if $(ONLY),--only $(ONLY))

page: $(STAMP) ## write the page of every measured figure, notebooks/results/README.md
	@$(PY) notebooks/refresh.py --page

notebooks: $(STAMP) ## execute the notebooks in place at their defaults and clean them for committing [NB]
	@$(PY) notebooks/refresh.py $(NB)

weights: $(STAMP) ## train the model that comes with m6rec anew, forty minutes
	@$(PY) data/weights.py

cuda: $(TESTED) ## on a machine with a GPU: check it against the CPU and measure both, at most ten minutes
	@$(PY) notebooks/measure_gpu.py

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "m6rec needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
	  echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing m6rec into .venv (once)."
	@$(INSTALL) '.' # what the notebooks use
	@rm -f .venv/installed-* .venv/tested-*
	@touch $@

$(TESTED): $(STAMP)
	@echo "Installing what the tests need into .venv (once)."
	@$(INSTALL) '.[test]'
	@touch $@
