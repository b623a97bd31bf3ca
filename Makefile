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

requirements:  ## requirements.txt: constraints.txt with the files' hashes, for pip install --require-hashes
	pip install --quiet --dry-run --ignore-installed --report - -c constraints.txt . | python experiments/requirements.py > requirements.part
	mv requirements.part requirements.txt

audit:  ## known vulnerabilities of what is installed
	@command -v pip-audit >/dev/null || { echo "cannot say: pip install pip-audit, on a machine with a network"; exit 1; }
	pip-audit --local
