# make demo      index and search rendered photographs; needs only Python >= 3.11, git and make
# make test      what every change must pass
# make test-all  also the tests that take minutes, or need ../shared/data in quantity or a chromium
# make bench     how to measure
# make clean     remove what these made

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint bench clean
.DELETE_ON_ERROR:

demo: .venv/demo
	@$(BIN)/python demo/demo.py demo-output

# A process a core, each on one thread: two that share the cores would wait for each other.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

test-all: lint
	@$(BIN)/pytest -m "not gpu"

lint: .venv/dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: .venv/dev
	@echo "Each measures on ../shared/data (or RESIGHT_TEST_DATA) and takes minutes to hours; -h tells its options."
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
		echo "$(BIN)/python $$file"; sed -n '1s/^"""/    /; 1s/"""$$//; 1p' $$file; done

clean:
	rm -rf .venv demo-output

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"resight needs Python 3.11 or newer; name one: make PYTHON=python3.11 …")'
	@$(PYTHON) -m venv .venv

# A stamp for each set of dependencies: they are installed again only when these two files change.
.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing resight and scikit-image into .venv, once (about half a gigabyte) …"
	@$(PIP) -e . scikit-image
	@touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing resight and what its tests need into .venv, once (about two gigabytes) …"
	@$(PIP) -e '.[deep,dev,fast,heif,train]'
	@touch $@
