# make demo      index and search rendered photographs; needs only Python >= 3.11, git and make
# make test      what every change must pass
# make test-all  also the tests that take minutes, or need ../shared/data in quantity or a chromium
# make torture   kills, full disks, flipped bits, hostile files and load, in numbers; takes minutes
# make bench     how to measure
# make lock      pin all that a release installs, by hashes; make audit: look for known holes in it; make sbom: list it
# make clean     remove what these made

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all torture lint bench lock audit sbom clean
.DELETE_ON_ERROR:

demo: .venv/demo
	@$(BIN)/python demo/demo.py demo-output

# A process a core, each on one thread: two that share the cores would wait for each other.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

test-all: lint
	@$(BIN)/pytest -m "not gpu and not torture"

# Prints what was tried, survived and found. Mounts small file systems where it may (as root).
torture: .venv/dev
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m torture tests/torture

lint: .venv/dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache > .venv/imports.txt || (cat .venv/imports.txt; false)

bench: .venv/dev
	@echo "Each measures on ../shared/data (or RESIGHT_TEST_DATA) and takes minutes to hours; -h tells its options."
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
		echo "$(BIN)/python $$file"; sed -n '1s/^"""/    /; 1s/"""$$//; 1p' $$file; done

# For every system and Python version, from PyPI: on Linux that has torch with CUDA, whose hashes its other builds lack.
COMPILE := .venv/tools/bin/uv pip compile pyproject.toml -c constraints.txt --universal --python-version 3.11 \
	--generate-hashes --no-annotate --upgrade --default-index https://pypi.org/simple \
	--custom-compile-command "make lock" --quiet

lock: .venv/tools.made
	@$(COMPILE) --extra serve --extra heif -o locks/serve.txt
	@$(COMPILE) $(foreach extra,cluster deep fast heif qdrant serve train,--extra $(extra)) -o locks/all.txt

# Fails where a package cannot be looked up, so that no answer is not taken for a good one.
audit: .venv/tools.made .venv/dev
	@.venv/tools/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r locks/all.txt
	@$(BIN)/python -m pip list --format freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > .venv/installed.txt
	@.venv/tools/bin/pip-audit --strict --progress-spinner off --disable-pip --no-deps -r .venv/installed.txt
	@cd web && npm audit --package-lock-only

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# CycloneDX: of the package with all its extras, and of the page that is built into it.
sbom: .venv/tools.made
	@mkdir -p dist
	@.venv/tools/bin/cyclonedx-py requirements locks/all.txt --pyproject pyproject.toml --mc-type library \
		--output-reproducible --of JSON -o dist/resight.cdx.json
	@rm -rf dist/page && mkdir dist/page && cp web/package.json web/package-lock.json dist/page
	@cd dist/page && npm version --no-git-tag-version $(VERSION) > /dev/null && \
		npm sbom --package-lock-only --omit dev --sbom-format cyclonedx > ../page.cdx.json
	@rm -r dist/page

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

.venv/tools.made: | .venv/bin/python
	@$(PYTHON) -m venv .venv/tools
	@.venv/tools/bin/python -m pip install --quiet --disable-pip-version-check \
		'cyclonedx-bom>=7.5' 'pip-audit>=2.10' 'uv>=0.13'
	@touch $@
