"""`qwq serve` and `qwq bench`: the commands that run a model in the engine."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

bench_app = App(name="bench", help="Measure this machine; results on standard output.")


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    deterministic: bool = False,
    max_model_len: int | None = None,
    kv_tokens: int | None = None,
    max_num_seqs: int = 32,
    max_num_batched_tokens: int = 512,
    max_waiting: int = 256,
    threads: int | None = None,
    speculate: bool = False,
    yarn: bool = False,
    quantization: str | None = None,
    draft_model: str | None = None,
    draft_tokens: int = 4,
    loop_tokens: int = 192,
) -> int:
    """Serve a model over an OpenAI-compatible API: /v1/chat/completions, /v1/completions, /v1/models, /health.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), a hub name, or modelscope:NAME.
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one and says which.
    served_model_name
        Name that requests give; the file's or folder's by default.
    dtype
        float32, bfloat16 or float16; auto is float32 on a CPU, bfloat16 on a GPU, and for a GGUF file its quantised form
        (with any other value it is dequantised).
    device
        torch device.
    deterministic
        A request's tokens do not depend on what else is being served, bit for bit; slower.
    max_model_len
        Longest prompt and answer together, in tokens.
    kv_tokens
        Tokens of keys and values kept over all requests.
    max_num_seqs
        Samples computed at once.
    max_num_batched_tokens
        Tokens computed in one step.
    max_waiting
        Requests that may wait; one more is answered 429.
    threads
        CPU threads.
    speculate
        Guess tokens from repeated text and check them; the output stays the same.
    yarn
        Stretch the context 4 times by YaRN for requests that need it (QwQ-32B does so without being asked).
    quantization
        int8 or int4: weight-only, on a GPU.
    draft_model
        A smaller model with the same tokenizer (folder or GGUF file), which guesses tokens for this one to check.
    draft_tokens
        Tokens that it guesses at once.
    loop_tokens
        Length of an exact repetition that ends an answer; 0 lets it go on.
    """
    from qwq.cli_models import model_folder
    from qwq.engine.open import EngineOptions
    from qwq.errors import ConfigError

    try:
        from qwq.serve.command import serve as run
    except ModuleNotFoundError as missing:
        raise ConfigError(f"qwq serve needs {missing.name}: `pip install 'qwq[serve]'`") from None

    options = EngineOptions(
        dtype=dtype, device=device, max_model_len=max_model_len, kv_tokens=kv_tokens, max_num_seqs=max_num_seqs,
        token_budget=max_num_batched_tokens, threads=threads, deterministic=deterministic, speculate=speculate, yarn=yarn,
        quantization=quantization, draft_model=draft_model, draft_tokens=draft_tokens,
    )  # fmt: skip
    # A checkpoint of a run is called by the run's name, not "final".
    name = served_model_name or (Path(model).name if not model.endswith(".gguf") else Path(model).stem)
    return run(
        model_folder(model), options, host=host, port=port, served_name=name, loop_tokens=loop_tokens, max_waiting=max_waiting
    )


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
    """Tokens per second, time to the first token and between tokens, and the share of the memory's bandwidth: a JSON line each.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder, or a hub name.
    prompt_tokens
        Length of the random prompts.
    new_tokens
        Tokens written by each request.
    requests
        How many at once; give it several times for several lines.
    dtype
        As for `qwq serve`.
    device
        torch device.
    threads
        CPU threads.
    deterministic
        Measure the mode whose output does not depend on the company.
    quantization
        int8 or int4, on a GPU.
    seed
        Seed of the prompts.
    """
    from qwq.bench import bench_engine as run
    from qwq.cli_models import model_folder
    from qwq.engine.open import EngineOptions

    options = EngineOptions(
        dtype=dtype, device=device, threads=threads, deterministic=deterministic, quantization=quantization,
        max_num_seqs=max(requests), kv_tokens=max(requests) * 2 * (prompt_tokens + new_tokens) + 4096, max_model_len=None,
    )  # fmt: skip
    run(model_folder(model), options, prompt_tokens=prompt_tokens, new_tokens=new_tokens, requests=requests, seed=seed)
    return 0
