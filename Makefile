# Everything runs from .venv, which `make setup` makes: with uv where it is installed, else uv is put into .venv by pip.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow test-gpu fuzz sanitize test-versions lint docs bench bench-peers bench-gpu native setup clean

demo: $(READY)  ## Draw a dataset, index, plan, train, evaluate; DATA=folder (PATTERN=regex) for your own images
	$(BIN)/resflow demo $(if $(DATA),--data "$(DATA)") $(if $(PATTERN),--label-pattern '$(PATTERN)') $(DEMO_FLAGS)

test: $(READY)  ## The tests that pass anywhere, in minutes
	@# One thread for each of two processes: more of them only wait for each other, at the cost of half the time.
	@# And bytecode is kept, whatever the machine says: without it each of some hundred processes compiles PyTorch anew.
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)  ## The tests that take minutes each, and rehearsals of benchmarks; SLOW="tests/docs ..." for some folders' alone
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m slow --timeout 1800 $(SLOW)

test-gpu: $(READY)  ## The tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu --timeout 600

test-versions: $(READY)  ## Part of the tests with the oldest and the newest dependencies, on each Python to be had
	$(BIN)/python .ci/versions.py $(VERSIONS_FLAGS)

fuzz: $(READY)  ## Fuzz what reads bytes of others; FUZZ_SECONDS=60 for each of FUZZ_TARGETS="tar header ..."
	@$$(command -v uv || echo $(BIN)/uv) pip install --quiet --python $(BIN)/python --constraint constraints.txt atheris
	@rm -f fuzz/work/*/stats.json
	@for name in $(or $(FUZZ_TARGETS),$$($(BIN)/python -m fuzz.run --list)); do \
		$(BIN)/python -m fuzz.run $$name --seconds $(or $(FUZZ_SECONDS),60) || exit 1; done
	@$(BIN)/python -m fuzz.run --report

sanitize: $(READY)  ## The compiled decoder under sanitizers: 60,000 damaged files, and a fuzzer for a minute
	$(BIN)/python -m fuzz.sanitize $(SANITIZE_FLAGS)

lint: $(READY)  ## Formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)  ## The documentation as a site, in site/; its pictures are drawn by docs/pictures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)  ## The planner's speed, the share of padding, what becomes of objects
	$(BIN)/python benchmarks/plan.py
	$(BIN)/python benchmarks/padding.py
	$(BIN)/python benchmarks/shapes.py

bench-peers: $(READY)  ## Resflow beside other loaders, each in an environment of its own (hours; PEERS_FLAGS=--quick)
	$(BIN)/python benchmarks/peers.py --json benchmarks/results/peers.json --plot benchmarks/results/peers.png $(PEERS_FLAGS)

bench-gpu: $(READY)  ## The tests that need a GPU, then Resflow beside DALI alone on it; GPU_FLAGS=--rehearsal needs none
	$(BIN)/python benchmarks/gpu.py --check --json benchmarks/results/gpu.json $(GPU_FLAGS)

native:  ## Compile the decoder anew, where its sources are newer; `make setup` does it, too
	@$(BIN)/python resflow/decode/native/build.py --strict --if-needed

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@command -v uv >/dev/null && uv venv --quiet --allow-existing --python $(PYTHON) .venv || \
		{ $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet --constraint constraints.txt uv; }
	@echo "Installing PyTorch, DALI and the rest into .venv (about a minute)"
	@$$(command -v uv || echo $(BIN)/uv) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo-output build *.egg-info .pytest_cache .mypy_cache .ruff_cache
