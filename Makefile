# make demo   install everything, train a first controller and show the result
# make test   everything that must hold: lint, types, tests
# make venv   only the environment in .venv

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check
CHECKED := robotrl tests scripts examples

.PHONY: demo test lint venv

demo: venv
	$(VENV)/bin/robotrl train recipe=quickstart

test: lint
	$(VENV)/bin/pytest -n 2 --dist loadfile --durations=15

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check $(CHECKED)
	$(VENV)/bin/ruff format --check $(CHECKED)
	$(VENV)/bin/mypy

venv: $(VENV)/.run

# The stamps make a second call instant; they are older than what they depend on after a change.
$(VENV)/.system: scripts/install_system_packages.sh
	scripts/install_system_packages.sh $(PYTHON)
	mkdir -p $(VENV) && touch $@

$(VENV)/.python: $(VENV)/.system
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robotrl needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and by its exact version: an unpinned one brings gigabytes of CUDA libraries
$(VENV)/.run: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install torch==2.13.0
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@
