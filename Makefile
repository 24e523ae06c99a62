# Every verb of gowhy; CI and the README use these and nothing else. `make help` lists them.
SHELL := /bin/bash
PYTHON := .venv/bin/python
CONFIG ?= configs/demo.yaml
ARGS ?=
# MODE=parallel: train_and_xai explains through the worker service instead of in-process.
MODE ?= in-process
# Each service in its own conda environment where conda is, else both in .venv.
TRAIN := bash envs/half.sh train
XAI := bash envs/half.sh xai
SITES := out/cache/demo-1/truth_sites.tsv

.DEFAULT_GOAL := help
.PHONY: help setup train_and_xai train explain test smoke test-real test-slow chaos quality lint format schema golden relock validate serve bench bench-worker test-browser ui test-stores bench-store xai-bench up down logs compose-test images env-image postgres-image env-train env-xai env-dev locks-check bench-scale clean

help: ## list the verbs
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: ## create or update the environment (.venv, or conda where it is present)
	@bash envs/setup.sh dev

train_and_xai: setup ## the demo chain: nine stages, manifest, explanations, report
	@$(TRAIN) -m services.train run --config $(CONFIG) $(ARGS)
	@if [ "$(MODE)" = parallel ]; then $(XAI) -m services.xai_worker submit out/latest/manifest.json --serve && \
	  $(XAI) -m services.xai_worker index --from-manifest out/latest/manifest.json >/dev/null; \
	  else $(XAI) -m services.xai_worker explain --from-manifest out/latest/manifest.json; fi
	@$(TRAIN) -m shared.manifest validate out/latest/manifest.json
	@if [ -f $(SITES) ] && [ "$(CONFIG)" = configs/demo.yaml ]; then \
	  $(XAI) -m services.xai_worker explain --quiet --from-manifest out/latest/manifest.json --sites $(SITES) --model cnn --limit 40 \
	    --tier fast --method occlusion --method integrated_gradients; fi
	@echo "manifest: out/latest/manifest.json"; for page in out/latest/xai/index.html out/latest/xai/*/index.html; do echo "report: $$page"; done

train: setup ## the nine stages; CONFIG=configs/medium.yaml, ARGS="--set a.b=c"
	@$(PYTHON) -m services.train run --config $(CONFIG) $(ARGS)

explain: setup ## explain the newest finished run; ARGS="--protein ACC --term GO:..."
	@$(PYTHON) -m services.xai_worker explain --from-manifest out/latest/manifest.json $(ARGS)

serve: setup ## the explanation service on http://127.0.0.1:8080; docs/worker.md; ARGS="--port 8081"
	@$(PYTHON) -m services.xai_worker serve $(ARGS)

bench: setup ## every row beside its peers (docs/performance.md); ARGS="--row propagation"; ends with PASS or FAIL
	@GOWHY_PEERS_PYTHON="$${GOWHY_PEERS_PYTHON:-$$(bash envs/bench.sh)}" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(PYTHON) -m benchmarks.bench $(ARGS)

bench-scale: setup ## seconds, memory and disk per stage at 1k and 10k generated proteins; ARGS="--proteins 100000"
	@$(PYTHON) -m benchmarks.bench_scale $(ARGS)

bench-worker: setup ## 32 clients against the service's bound, on SQLite and Postgres; ends with PASS or FAIL
	@$(PYTHON) -m benchmarks.bench_worker $(ARGS)
ui: ## build the report's front-end libraries (npm, once); without them reports are plain HTML and SVG
	@cd services/xai_worker/report/ui && npm ci --no-progress && npm run --silent build

test-browser: setup ## the reports in headless Chromium; screenshots in out/bench/browser
	@$(PYTHON) -m pytest -m browser $(ARGS)

validate: setup ## check the newest finished run's manifest and every file it names
	@$(PYTHON) -m shared.manifest validate out/latest/manifest.json

test: setup ## the default test suite: minutes, no network, no weights, no GPU; JOBS=0: in one process, as --pdb needs
	@$(PYTHON) -m pytest -n $(or $(JOBS),2) --dist loadfile -m "not slow and not chaos and not browser and not stores and not docker" $(ARGS)

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

chaos: setup ## kill the pipeline and the service at random moments and named points; KILLS=n, WORKER_KILLS=n
	@GOWHY_KILLS=$(or $(KILLS),20) GOWHY_WORKER_KILLS=$(or $(WORKER_KILLS),$(KILLS),200) $(PYTHON) -m pytest -m chaos $(ARGS)

quality: setup ## run DATA (medium or tiny), write its quality page, hold it to gates; ARGS=--ablations
	@$(PYTHON) -m benchmarks.quality --data $(or $(DATA),medium) $(ARGS)

BENCH := out/bench/planted
xai-bench: setup ## measure the explanations of the newest finished run; SEEDS="1 2", BENCH_ARGS="--section speed"; ends with PASS or FAIL
	@for seed in $(or $(SEEDS),1 2 3 4 5) 1p; do \
	  config=$$($(PYTHON) -m services.train.data.planted --out $(BENCH)/data/seed-$$seed --seed $${seed%p} $$([ $$seed = $${seed%p} ] || echo --permute-labels)) && \
	  $(PYTHON) -m services.train run --quiet --config $$config --set paths.out=$(BENCH)/runs --set run_id=seed-$$seed || exit 1; done
	@$(PYTHON) -m services.xai_worker bench --from-manifest out/latest/manifest.json --planted $(BENCH) $(BENCH_ARGS)

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

env-train: ## create or update train's environment; prints the lock's sha256 and the packages' digest
	@bash envs/setup.sh train

env-xai: ## the same for the worker
	@bash envs/setup.sh xai

env-dev: ## the same for both services with the tests; what `make setup` does
	@bash envs/setup.sh dev

relock: setup ## solve the locks again: envs/pip/*.txt (needs uv), conda (needs conda-lock and its channel)
	@PATH=$(CURDIR)/.venv/bin:$$PATH bash envs/relock.sh

locks-check: setup ## fail where an input changed without its lock, a lock was edited, or a lock is not closed
	@$(PYTHON) envs/locks_check.py

COMPOSE := bash envs/compose.sh
images: ## build both images; LOCAL_ENV=1: from what make env-image made; docs/images.md
	@$(COMPOSE) build $(ARGS)

env-image: setup ## environment images from this machine's packages, for make images LOCAL_ENV=1
	@bash envs/env-image.sh

postgres-image: ## a Postgres from Debian's packages, for make up SCALE=3 LOCAL_ENV=1
	@DOCKER_BUILDKIT=1 docker build --network=host --build-arg RUNTIME_IMAGE=$(or $(RUNTIME_IMAGE),local/debian:bookworm) -t gowhy-postgres:local -f envs/Dockerfile.postgres .

up: ## train, hand over, explain, in containers; the report is in ./out; SCALE=3: on Postgres; GPU=1
	@$(COMPOSE) up --build --detach $(if $(SCALE),--scale xai-worker=$(SCALE)) $(ARGS)
	@$(COMPOSE) finish

down: ## stop the containers; ARGS=-v deletes the queue too, never ./out
	@$(COMPOSE) down --remove-orphans $(ARGS)

logs: ## follow the containers' logs
	@$(COMPOSE) logs --follow $(ARGS)

compose-test: setup ## build the images, run the pair end to end, break it in every documented way, tear down; KILLS=8: kill it, too
	@GOWHY_COMPOSE_KILLS=$(or $(KILLS),0) $(PYTHON) -m pytest -m docker $(ARGS)

clean: ## remove what tools left behind; never out/
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
