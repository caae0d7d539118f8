"""`qwq serve`, `qwq chat` and `qwq bench`: the commands that run a model in the engine."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from qwq.chat.options import CHAT_DEFAULTS, ChatOptions
from qwq.engine.options import ENGINE_DEFAULTS, MODEL_DEFAULTS, EngineOptions, ModelOptions
from qwq.serve.options import SERVE_DEFAULTS, ServeOptions

bench_app = App(name="bench", help="Measure this machine; results on standard output.")


def serve(
    model: str,
    *more: str,
    serving: ServeOptions = SERVE_DEFAULTS,
    engine: EngineOptions = ENGINE_DEFAULTS,
    config: Path | None = None,  # read by cli.foreign, which puts its options in front of these
) -> int:
    """Serve a model over an OpenAI-compatible API: /v1/chat/completions, /v1/responses,
    /v1/completions, /v1/models and more (docs/serve.md).

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), a hub name or modelscope:NAME.
    more
        Further models. A request names its model; one is in memory at a time. NAME=MODEL sets the
        name.
    config
        TOML file with any of these options, a line each (max-model-len = 8192); the command line
        overrides it.
    """
    from qwq.errors import ConfigError, install_hint
    from qwq.pipeline.resolve import model_folder

    try:
        from qwq.serve.command import serve as run
    except ModuleNotFoundError as missing:
        raise ConfigError(f"qwq serve needs {missing.name}: {install_hint('serve')}") from None
    return run((model, *more), engine, serving, locate=model_folder)


def chat(model: str, *, options: ChatOptions = CHAT_DEFAULTS, engine: ModelOptions = MODEL_DEFAULTS) -> int:
    """Chat with a model. `/help` lists the commands, Ctrl-C stops an answer, `/quit` ends.

    Lines that are pasted together are one question, and so is the text between two lines of triple
    double quotes. Input from a pipe is one question, up to its end or to a line with a command.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), or a hub name.
    """
    from qwq.chat.command import run_chat
    from qwq.pipeline.resolve import model_folder

    return run_chat(model_folder(model), engine.engine(max_num_seqs=1), options)


@bench_app.command(name="engine")
def bench_engine(
    model: str,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    requests: tuple[int, ...] = (1, 4, 16),
    dtype: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    deterministic: bool = False,
    quantization: str | None = None,
    seed: int = 0,
) -> int:
    """Tokens per second, time to the first token and between tokens, and the share of the memory's
    bandwidth: a JSON line each.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder, or a hub name.
    prompt_tokens
        Length of the random prompts.
    new_tokens
        Tokens written by each request, 2 or more.
    requests
        Concurrent requests; repeatable, one line each.
    dtype
        As for `qwq serve`.
    device
        torch device.
    threads
        CPU threads.
    deterministic
        Benchmark batch-invariant mode.
    quantization
        int8 or int4, on a GPU.
    seed
        Seed of the prompts.
    """
    from qwq.engine.bench import bench_engine as run
    from qwq.pipeline.resolve import model_folder

    options = EngineOptions(
        dtype=dtype, device=device, threads=threads, deterministic=deterministic, quantization=quantization
    )
    run(model_folder(model), options, prompt_tokens=prompt_tokens, new_tokens=new_tokens, requests=requests, seed=seed)
    return 0
