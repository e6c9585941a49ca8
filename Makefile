# `make demo`: see it learn and write. `make test`: everything CI runs but lint. `make lint`: the same lint as CI.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint format clean

# The stamp is newer than what it was made from, so an unchanged checkout installs nothing twice.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/throughtime demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist
