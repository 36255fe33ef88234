# Everything works on a machine that has only Python 3.11+ and make: each target sets up .venv first, once.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST_ARGS ?=
# Most tests wait for sockets and processes more than they compute, so three at a time suit even two processors.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile
IMAGE ?= modelarts-gateway:dev

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Made again only when pyproject.toml changes. The stamp is written last, so an interrupted installation is repeated.
$(INSTALLED): pyproject.toml
	@python=$$(PYTHON='$(PYTHON)' .ci/find-python) || exit 1; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Making $(VENV) with $$python ..."; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo "Installing the gateway and its tools into $(VENV): about half a minute the first time ..."
	@$(BIN)/python -m pip install --quiet --progress-bar off -e '.[dev]'
	@touch $@

.PHONY: setup
setup: $(INSTALLED) ## make .venv and install everything into it
	@echo "$(VENV) is ready; the command is $(BIN)/modelarts-gateway"

.PHONY: demo
demo: $(INSTALLED) ## gateway and simulator together: one request per credential kind, then yours
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

.PHONY: image
image: ## build the container image; IMAGE=name:tag, BASE_IMAGE=... for another base
	docker build --tag $(IMAGE) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) .

.PHONY: image-test
image-test: ## build the image and try it: read-only, no capabilities, no network; DOCKER=podman for another engine
	IMAGE='$(IMAGE)' BUILD_ARGS='$(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) $(BUILD_ARGS)' .ci/image-test

.PHONY: clean
clean: ## remove what these targets made
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
