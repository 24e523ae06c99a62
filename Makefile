# Every verb of gowhy; CI and the README use these and nothing else. `make help` lists them.
SHELL := /bin/bash
PYTHON := .venv/bin/python
CONFIG ?= configs/demo.yaml
ARGS ?=
SITES := out/cache/demo-1/truth_sites.tsv

.DEFAULT_GOAL := help
.PHONY: help setup train_and_xai train explain test smoke test-real test-slow test-stores bench-store chaos lint format schema golden relock validate clean

help: ## list the verbs
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: ## create or update the environment (.venv, or conda where it is present)
	@bash envs/setup.sh dev

train_and_xai: setup ## the demo chain: nine stages, manifest, explanations, report
	@$(PYTHON) -m services.train run --config $(CONFIG) $(ARGS)
	@$(PYTHON) -m services.xai_worker explain --from-manifest out/latest/manifest.json
	@$(PYTHON) -m shared.manifest validate out/latest/manifest.json
	@if [ -f $(SITES) ] && [ "$(CONFIG)" = configs/demo.yaml ]; then \
	  $(PYTHON) -m services.xai_worker explain --quiet --from-manifest out/latest/manifest.json --sites $(SITES) --model cnn --limit 40; fi
	@echo "manifest: out/latest/manifest.json"; for page in out/latest/xai/*/index.html; do echo "report: $$page"; done

train: setup ## the nine stages; CONFIG=configs/medium.yaml, ARGS="--set a.b=c"
	@$(PYTHON) -m services.train run --config $(CONFIG) $(ARGS)

explain: setup ## explain the newest finished run; ARGS="--protein ACC --term GO:..."
	@$(PYTHON) -m services.xai_worker explain --from-manifest out/latest/manifest.json $(ARGS)

validate: setup ## check the newest finished run's manifest and every file it names
	@$(PYTHON) -m shared.manifest validate out/latest/manifest.json

test: setup ## the default test suite: minutes, no network, no weights, no GPU
	@$(PYTHON) -m pytest -m "not slow and not chaos and not stores" $(ARGS)

smoke: setup ## about 100 generated proteins through all nine stages and one explanation
	@$(PYTHON) -m pytest -m smoke $(ARGS)

test-real: setup ## the tests on real data (GOWHY_DATA)
	@$(PYTHON) -m pytest -m real_data $(ARGS)

test-slow: setup ## the tests that take minutes
	@$(PYTHON) -m pytest -m slow $(ARGS)

test-stores: setup ## the store conformance suite on all five backends, and resuming from Kaggle, on loopback
	@$(PYTHON) -m pytest -m "stores and not slow" $(ARGS)

bench-store: setup ## bytes that a push sends, and a 1 GB pull against a plain download; exits 1 on a missed gate
	@$(PYTHON) -m benchmarks.bench_store $(ARGS)

chaos: setup ## kill the pipeline at random moments and compare bytes; KILLS=n
	@GOWHY_KILLS=$(or $(KILLS),20) $(PYTHON) -m pytest -m chaos $(ARGS)

lint: setup ## ruff, mypy, import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup ## rewrite files as ruff wants them
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

schema: setup ## write schema/*.json from the models
	@$(PYTHON) -m schema

golden: setup ## rewrite the golden files; review the difference
	@GOWHY_WRITE_GOLDEN=1 $(PYTHON) -m pytest tests/e2e/test_smoke.py -k golden $(ARGS)

relock: setup ## resolve envs/pip/*.txt again from envs/pip/*.in (needs uv)
	@bash envs/relock.sh

clean: ## remove what tools left behind; never out/
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
