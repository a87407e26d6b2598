PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 3
STAMP := .venv/.installed

.PHONY: install demo serve lint test test-all bench parity

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,yolo,test]'
	touch $(STAMP)

demo: install
	$(BIN)/amlocal run -- $(BIN)/python fixtures/demo.py

serve: install
	$(BIN)/amlocal serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-all: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --hypothesis-profile searching -m 'not bench'

parity: install
	$(BIN)/python -m amlocal.emulator.arm.coverage compat/PARITY.md

bench: install
	$(BIN)/pytest -m bench -s
