# Two commands: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check install system clean

demo: $(VENV)/.installed system
	$(BIN)/penstock demo --out build

test: $(VENV)/.installed-test system
	$(BIN)/python tools/check.py

check: test

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

system:
	@sh tools/system_packages.sh

clean:
	rm -rf $(VENV) build dist
