# `make demo` and `make test` set up what they need; both are quick when run again.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

BUDGET ?= cpu

.PHONY: setup demo test bench check format page weights clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' || \
	    { echo "'$(PYTHON)' is not Python 3.10-3.13; name another: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	    { echo "Could not create .venv with '$(PYTHON)'; on Debian and Ubuntu install the package python3-venv." >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,dev,label]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps 'monailabel; python_version < "3.13"'
	@touch $@

demo: setup
	$(BIN)/vertebrae demo --output out/demo

test: setup
	$(BIN)/pytest -q

bench: setup
	$(BIN)/python -m benchmarks.speed

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make weights BUDGET=cpu|gpu|tiny SHAPES=FOLDER; goes on where it was stopped.
weights: setup
	$(BIN)/python -m benchmarks.campaign out/weights --budget $(BUDGET) $(if $(SHAPES),--shapes $(SHAPES))

# The label server's page, into one committed file; needs Node and npm.
page:
	cd web && npm ci && npm run build

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
