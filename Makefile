# What contributors type. The tools are those of .venv, or of the active environment where there is none.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help install check test test-all quickstart docs requirements audit

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install:  ## .venv with all that the tests need
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[test]'

check:  ## style, spelling and types
	ruff check .
	ruff format --check .
	codespell
	pyright

test:  ## the quick tests
	pytest

test-all:  ## all of them, about an hour
	pytest -m "not gpu"

quickstart:  ## train a tiny model from scratch, about a minute
	vicuna-train

docs:  ## the documentation as pages, in site/; every warning is an error
	mkdocs build --strict

requirements:  ## requirements.txt: the versions of constraints.txt with the hashes of all their files, for every platform; needs uv
	@command -v uv >/dev/null || { echo "pip install uv"; exit 1; }
	uv pip compile pyproject.toml --extra test -c constraints.txt --generate-hashes --universal --python-version 3.11 \
	  --no-annotate --no-header --quiet > requirements.part
	{ echo "# Made by \`make requirements\`: pip install --require-hashes -r requirements.txt && pip install --no-deps -e ."; \
	  cat requirements.part; } > requirements.txt
	rm requirements.part

audit:  ## known vulnerabilities, by a dated list without a network; also by pip-audit where it is installed
	python -m experiments.audit
	@if command -v pip-audit >/dev/null; then pip-audit --local; else \
	  echo "what was published later: pip install pip-audit, on a machine with a network"; fi
