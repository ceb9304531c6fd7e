# `make run` shows the product, `make test` proves it. Everything happens in .venv, which the first target that needs it builds.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := hack/requirements.lock
COMPILE := .lock-venv/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header --no-emit-index-url \
  --no-emit-trusted-host --no-emit-find-links
IMAGE  ?= epp:0.1.0

.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

$(VENV)/.ready: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(VENV)/.ready ## the environment alone: .venv with .venv/bin/epp in it

run: venv        ## the demo: a real Envoy, the picker, model-server stand-ins, all strategies (ARGS=--keep leaves it up)
	$(BIN)/epp demo $(ARGS)

test: venv kube-assets ## the whole suite
	$(BIN)/python -m pytest $(ARGS)

kube-assets: venv ## kube-apiserver, etcd, kubectl, helm and CRDs for the Kubernetes tests, into a cache; minutes, once
	@$(BIN)/python hack/kube_assets.py > /dev/null || echo 'the Kubernetes tests will not run'

check: venv      ## ruff, mypy --strict, import layers, generated files
	$(BIN)/ruff check epp tests hack
	$(BIN)/ruff format --check epp tests hack
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python hack/chart_schema.py --check
	$(BIN)/python hack/render_manifests.py --check

bench: venv      ## what a decision costs, as ratios against floors measured in the same run
	$(BIN)/python -m tests.bench $(ARGS)

bench-routing: venv ## how well each strategy routes, through a real Envoy (long)
	$(BIN)/python -m tests.bench.routing $(ARGS)

bench-rules: venv ## how well load rules and your own plugins route, on virtual time (ARGS="--workload chat --config FILE")
	$(BIN)/python -m tests.bench.virtual_routing $(ARGS)

proto: venv      ## regenerate epp/pb from proto/
	$(BIN)/python hack/generate_proto.py

e2e: venv        ## in containers, where a Docker daemon exists: the image, Envoy, the chart in k3s (minutes)
	EPP_E2E=1 $(BIN)/python -m pytest tests/e2e $(ARGS)

image:           ## the container image (IMAGE=name:tag, ARGS=--build-arg ...)
	docker build --tag $(IMAGE) $(ARGS) .

manifests: venv  ## regenerate the chart's schema and dashboard, manifests/install and manifests/configmaps
	$(BIN)/python hack/chart_schema.py
	$(BIN)/python hack/render_manifests.py

lock:            ## pin every dependency with its hashes: all, what the image runs, what builds it
	$(PYTHON) -m venv .lock-venv && .lock-venv/bin/pip install --quiet 'pip-tools>=7.4'
	$(COMPILE) --extra standalone --extra dev --output-file $(LOCK) pyproject.toml
	$(COMPILE) --constraint $(LOCK) --output-file hack/runtime.lock pyproject.toml
	$(COMPILE) --constraint $(LOCK) --only-build-deps --build-deps-for wheel --output-file hack/build.lock pyproject.toml
	rm -rf .lock-venv

.PHONY: help venv run test kube-assets check bench bench-routing bench-rules proto e2e image manifests lock
