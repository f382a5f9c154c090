# bluegreen: `make help` lists the targets.
SHELL := /bin/bash
# More than there are cores: tests wait as much as they work.
WORKERS ?= 4
PYTEST := .venv/bin/python -m pytest

# A machine that forbids byte code would make every start of every command slower.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help lab parts engine images ci-local browser terminal ci test lint test-unit test-contract test-integration demo \
	demo-down soak bench bench-quick bench-images clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

lab: ## set up: .venv, a Docker engine, the base images, what runs pipelines and pages
	@$(MAKE) --no-print-directory -j 4 parts

parts: .venv/.stamp engine images ci-local browser terminal

.venv/.stamp: setup.cfg lab/requirements.lock
	@lab/venv
	@touch $@

engine:
	@lab/engine

images: .venv/.stamp engine
	@lab/images

ci-local:
	@lab/ci-local

browser:
	@lab/browser

terminal:
	@lab/terminal

ci: .venv/.stamp ## write the pipelines below ci/ from their template
	.venv/bin/python -m bluegreen.gitlab_ci ci

test: ## set up and run everything: lint, unit, contract and integration tests
	@$(MAKE) --no-print-directory lab
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory test-unit
	@$(MAKE) --no-print-directory test-contract
	@$(MAKE) --no-print-directory test-integration

lint: .venv/.stamp ## ruff, mypy, and the dependencies against published advisories
	.venv/bin/ruff check
	.venv/bin/mypy
	@lab/audit

test-unit: .venv/.stamp ## the quick tests, no engine needed
	$(PYTEST) tests/unit -n 3 -q

test-contract: .venv/.stamp ## the same tests on every driver (needs `make lab`)
	$(PYTEST) tests/contract -n $(WORKERS) --dist loadgroup -v

test-integration: .venv/.stamp ## the promises, on a real engine (needs `make lab`)
	$(PYTEST) tests/integration -n $(WORKERS) --dist loadgroup -v

demo: .venv/.stamp engine images ## v1 live, v2 over it under load, back, a broken v3 refused; leaves the service up
	@.venv/bin/python demo/run.py

demo-down: .venv/.stamp ## remove what the demo left
	@.venv/bin/bluegreen down --yes

soak: .venv/.stamp engine images ## the runs that take longer than `make test` may; results go to docs/soak.txt
	@bench/soak
	@bench/crash
	@.venv/bin/python bench/million.py

bench-images: .venv/.stamp engine images
	@lab/images bluegreen-lab/wrk bluegreen-lab/caddy bluegreen-lab/compose

bench: bench-images ## measure bluegreen and its peers, within 30 minutes; writes bench/RESULTS.md and its plots anew
	@.venv/bin/python bench/run.py

bench-quick: bench-images ## the same with fewer turns and fewer peers, within 4 minutes; writes below .lab/bench
	@.venv/bin/python bench/run.py --quick

clean: ## remove .venv, caches and build output (containers and images stay)
	rm -rf .venv .lab .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
