# Everything happens in .venv, which the first target that needs it makes.
# Another interpreter: make test PYTHON=python3.13. Part of the tests: make test ARGS="-k sqlite".
# The example with its circuits in a server of its own: make demo BACKEND=redis, or BACKEND=database.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# 3.11, or what is wrong: old, or bare (no ensurepip, as in Debian without python3-venv), or nothing.
FOUND := $(shell $(PYTHON) -c 'import sys; v = sys.version_info; print("old" if v < (3, 11) else "bare" if not __import__("importlib.util").util.find_spec("ensurepip") else "%d.%d" % v[:2])' 2>/dev/null)
REMEDY_ := there is no "$(PYTHON)" here: install Python 3.11 or newer, or name it: make PYTHON=python3.13
REMEDY_old := "$(PYTHON)" is older than Python 3.11: install a newer one and name it: make PYTHON=python3.13
REMEDY_bare := "$(PYTHON)" lacks the module venv: install it (on Debian and Ubuntu: apt install python3-venv)

.PHONY: test demo screenshots bench lint typing tox clean

test: $(VENV)/.test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=0

demo: $(VENV)/.example
	$(BIN)/python example_project/demo.py $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

screenshots: $(VENV)/.browser
	$(BIN)/python -m tests.browser.screenshots

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typing: $(VENV)/.typing
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

tox: $(VENV)/.tox
	$(BIN)/tox run $(ARGS)

clean:
	rm -rf $(VENV) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .tox build dist mutants

# One stamp for each dependency group, one for the environment itself: another Python makes it anew.
$(VENV)/.test $(VENV)/.example $(VENV)/.browser $(VENV)/.bench $(VENV)/.lint $(VENV)/.typing $(VENV)/.tox: $(VENV)/.%: pyproject.toml $(VENV)/.python-$(FOUND)
	$(BIN)/pip install --quiet --group $* --editable .
	touch $@

$(VENV)/.python-$(FOUND):
	$(if $(REMEDY_$(FOUND)),$(error $(REMEDY_$(FOUND))))
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	touch $@
