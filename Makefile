# Everything works on a machine that has only Python 3.11+ and make: each target sets up .venv first, once.

VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/.made
RUNS := $(VENV)/.runs
INSTALLED := $(VENV)/.installed
# What is installed for the tests. The gate adds `gate`: programs that not every platform has, and without which tests skip.
EXTRAS ?= dev
PYTEST_ARGS ?=
# Most tests wait for sockets and processes more than they compute, so three at a time suit even two processors.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile
IMAGE ?= modelarts-gateway:dev
PODMAN ?= podman
COMPOSE ?= docker compose

# The engine's client, where it is not Docker's own: make image DOCKER=podman.
DOCKER ?= docker
# What follows pip's own words, which name neither the cause nor the cure when no index answers.
PIP_HINT := { echo "pip could not install what the gateway needs. Does it reach a package index? PIP_INDEX_URL, PIP_PROXY or pip.conf name one; the same command tries again." >&2; exit 1; }

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(MADE):
	@python=$$(PYTHON='$(PYTHON)' .ci/find-python) || exit 1; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Making $(VENV) with $$python ..."; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@touch $@

# Each is made again only when pyproject.toml changes. The stamp is written last, so an interrupted installation is repeated.
$(RUNS): pyproject.toml | $(MADE)
	@echo "Installing the gateway into $(VENV): a few seconds the first time ..."
	@$(BIN)/python -m pip install --quiet --progress-bar off -e '.[speed]' || $(PIP_HINT)
	@touch $@

$(INSTALLED): pyproject.toml | $(MADE)
	@echo "Installing the gateway and its tools into $(VENV): about a minute the first time ..."
	@$(BIN)/python -m pip install --quiet --progress-bar off -e '.[$(EXTRAS)]' || $(PIP_HINT)
	@touch $(RUNS) $@

.PHONY: setup
setup: $(INSTALLED) ## make .venv and install everything into it
	@echo "$(VENV) is ready; the command is $(BIN)/modelarts-gateway"

.PHONY: demo
demo: $(RUNS) ## gateway and simulator together: one request per credential kind, then yours
	@$(BIN)/modelarts-gateway demo

.PHONY: test
test: $(INSTALLED) ## run every test; PYTEST_ARGS='-k signing' for some
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: check
check: $(INSTALLED) ## what the gate runs: format, lint, types, house rules, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house
	$(PYTEST) --ignore=tests/house $(PYTEST_ARGS)

.PHONY: bench
bench: $(INSTALLED) ## measure beside nginx, Envoy, a plain proxy; ROUNDS=5 WORKLOADS=small,upload PEERS=gateway BENCH_ARGS=...
	@$(BIN)/python -m bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(PEERS),--peers $(PEERS)) $(BENCH_ARGS)

.PHONY: format
format: $(INSTALLED) ## rewrite the code the way the gate wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: lock
lock: $(INSTALLED) ## write requirements/*.txt anew: exact versions and hashes for the image
	$(BIN)/python -m pip install --quiet uv
	UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip compile --quiet --python $(BIN)/python --universal --generate-hashes --no-header --no-annotate \
		--upgrade --extra speed pyproject.toml -o requirements/runtime.txt
	UV_PYTHON_DOWNLOADS=never $(BIN)/uv pip compile --quiet --python $(BIN)/python --universal --generate-hashes --no-header --no-annotate \
		--upgrade requirements/build.in -o requirements/build.txt

.PHONY: docs
docs: $(INSTALLED) ## build the documents into dist/docs, every warning an error; no network
	$(BIN)/python docs/reference.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d dist/.doctrees docs dist/docs
	@echo "dist/docs/index.html"

# What the image installs, in an environment of its own, so that no development tool is among it.
.PHONY: sbom
sbom: $(INSTALLED) ## write and check dist/sbom.json: what the gateway ships, in CycloneDX's JSON
	$(BIN)/python -m pip install --quiet "cyclonedx-bom>=7"
	rm -rf dist/.shipped
	$(BIN)/python -m venv dist/.shipped
	dist/.shipped/bin/python -m pip install --quiet --require-hashes -r requirements/runtime.txt
	dist/.shipped/bin/python -m pip install --quiet --no-deps .
	dist/.shipped/bin/python -m pip uninstall --quiet --yes pip setuptools 2>/dev/null
	sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'import gateway; print(gateway.__version__)')\"/" pyproject.toml > dist/.shipped/pyproject.toml
	$(BIN)/cyclonedx-py environment --pyproject dist/.shipped/pyproject.toml --output-reproducible --output-file dist/sbom.json dist/.shipped
	rm -rf dist/.shipped
	@$(BIN)/python -m tests.deploy.bill dist/sbom.json

.PHONY: image
image: ## build the container image; IMAGE=name:tag, BASE_IMAGE=... for another base, DOCKER=podman for another engine
	$(DOCKER) build $(if $(findstring podman,$(DOCKER)),--format docker) --tag $(IMAGE) $(BUILD) .

.PHONY: image-test
image-test: ## build the image and try it: read-only, no capabilities, no network; DOCKER=podman for another engine
	DOCKER='$(DOCKER)' IMAGE='$(IMAGE)' BUILD_ARGS='$(BUILD)' .ci/image-test

# The next ones need root and an engine; each builds its image first. BASE_IMAGE and BUILD_ARGS as above.
BUILD = $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_ARGS)

.PHONY: pod-test
pod-test: $(INSTALLED) ## run every rendered overlay with podman against the simulator; PODMAN='podman --root DIR'
	$(PODMAN) build --format docker --tag $(IMAGE) $(BUILD) .
	$(BIN)/python -m tests.deploy.play --podman '$(PODMAN)' --image localhost/$(IMAGE)

.PHONY: systemd-test
systemd-test: ## start deploy/systemd under a real systemd, in a container that podman runs
	PODMAN='$(PODMAN)' BUILD_ARGS='$(BUILD)' .ci/systemd-test

.PHONY: compose-test
compose-test: $(INSTALLED) ## bring deploy/compose up; COMPOSE=docker-compose, UP_ARGS='--prometheus /usr/bin/prometheus --base IMAGE'
	$(DOCKER) build --tag $(IMAGE) $(BUILD) .
	IMAGE=$(IMAGE) $(BIN)/python -m tests.deploy.up --docker '$(DOCKER)' --compose '$(COMPOSE)' $(UP_ARGS)

.PHONY: clean
clean: ## remove what these targets made
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
