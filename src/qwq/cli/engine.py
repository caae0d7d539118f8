"""`qwq serve`, `qwq chat` and `qwq bench`: the commands that run a model in the engine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

# Other names of element types.
DTYPE_NAMES = {
    "half": "float16",
    "fp16": "float16",
    "f16": "float16",
    "bf16": "bfloat16",
    "float": "float32",
    "fp32": "float32",
    "f32": "float32",
}


def _tokens(option: str, given: str | None) -> int | None:
    """A number of tokens: 8192, 32k (thousands), 32K (1,024 each), or auto."""
    from qwq.errors import ConfigError

    if given is None or given in ("auto", "-1"):
        return None
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", given.replace("_", "").replace(",", ""))
    size = float(number[1]) * {"": 1, "k": 1000, "K": 1024, "m": 10**6, "M": 1 << 20}[number[2]] if number else 0
    if size < 1 or size != int(size):
        raise ConfigError(
            f"{option} {given}: give a number of tokens of 1 or more, such as 8192, 32k (32,000) or 32K (32,768)"
        )
    return int(size)


def _named(given: str, names: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A model and its names: those that are given, else the NAME of NAME=MODEL, else the file's or folder's. A checkpoint of a run is
    called by the run's name, not "final"."""
    name, equals, path = given.partition("=")
    if equals and re.fullmatch(r"[\w.:-]+", name) and path and not Path(given).exists():
        return path, (name,)
    own = Path(given).stem if given.endswith(".gguf") else Path(given).name
    if names[:1] == ("*",):
        return given, (own or "model", *names)
    return given, names or (own,)


def _object(option: str, given: str | None) -> dict[str, Any]:
    from qwq.errors import ConfigError

    try:
        made = json.loads(given or "{}")
    except ValueError as error:
        raise ConfigError(f"{option} {given!r}: not JSON ({error})") from None
    if not isinstance(made, dict):
        raise ConfigError(f'{option} {given!r}: give an object, such as {{"enable_thinking": false}}')
    return made


bench_app = App(name="bench", help="Measure this machine; results on standard output.")


def serve(
    model: str,
    *more: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    api_key: tuple[str, ...] = (),
    dtype: str = "auto",
    device: str = "cpu",
    deterministic: bool = False,
    max_model_len: str | None = None,
    kv_tokens: str | None = None,
    max_num_seqs: int = 32,
    max_num_batched_tokens: int = 512,
    max_waiting: int = 256,
    enable_prefix_caching: Annotated[bool, Parameter(negative="--no-enable-prefix-caching")] = True,
    threads: int | None = None,
    speculate: bool = False,
    yarn: bool = False,
    quantization: str | None = None,
    draft_model: str | None = None,
    draft_tokens: int = 4,
    loop_tokens: int = 192,
    seed: int | None = None,
    keep_tool_thinking: bool = False,
    ignore_unknown_fields: bool = False,
    max_request_mib: int = 32,
    allowed_origins: tuple[str, ...] = (),
    shutdown_timeout: float = 10.0,
    stored_responses: int = 1000,
    page: Annotated[bool, Parameter(negative="--no-page")] = True,
    conversations: Path | None = None,
    allowed_host: tuple[str, ...] = (),
    chat_template: str | None = None,
    default_chat_template_kwargs: str | None = None,
    ssl_keyfile: Path | None = None,
    ssl_certfile: Path | None = None,
    root_path: str = "",
    access_log: str | None = None,
    config: Path | None = None,
) -> int:
    """Serve a model over an OpenAI-compatible API: /v1/chat/completions, /v1/responses, /v1/completions, /v1/models and more (docs/serve.md).

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), a hub name, or modelscope:NAME.
    more
        Further models. A request names the one that it wants; one is in memory at a time. NAME=MODEL says what requests call it.
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one and says which.
    served_model_name
        Name that requests give; the file's or folder's by default. Several may be given; answers bear the first. With * among them any name is
        taken, for programs that have a name built in.
    api_key
        Key that requests must bear; several may be given. The environment's QWQ_API_KEY (keys parted by commas) by default.
    dtype
        float32, bfloat16 (bf16) or float16 (half); auto is float32 on a CPU, bfloat16 on a GPU, and for a GGUF file its quantised form
        (with any other value it is dequantised).
    device
        torch device.
    deterministic
        A request's tokens do not depend on what else is being served, bit for bit; slower.
    max_model_len
        Longest prompt and answer together, in tokens; 32k is 32,000, 32K is 32,768. auto (or -1) is the model's own, at most 32,768.
    kv_tokens
        Tokens of keys and values kept over all requests, written like --max-model-len.
    max_num_seqs
        Samples computed at once.
    max_num_batched_tokens
        Tokens computed in one step.
    max_waiting
        Samples that may wait; one more is answered 429.
    enable_prefix_caching
        Compute a prompt's beginning only once where an earlier one began alike.
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
    seed
        Seed of requests that give none, so that a run repeats; random by default.
    keep_tool_thinking
        Keep the thinking before a call in the prompt when its result comes, also where the model's template drops it.
    ignore_unknown_fields
        Ignore fields of requests that are not known here, and values that are not implemented, and say each once in the log; without it they
        are answered 400.
    max_request_mib
        Largest body of a request; a larger one is answered 413.
    allowed_origins
        Web origins whose pages may ask (CORS); * for all, none by default.
    shutdown_timeout
        Seconds that answers under way get when the server is asked to end; then they are cut off.
    stored_responses
        Responses kept in memory for previous_response_id.
    page
        Serve the chat page at /.
    conversations
        File that the page's conversations are kept in; ~/.local/share/qwq/conversations.sqlite (or below $XDG_DATA_HOME) by default,
        :memory: for none.
    allowed_host
        Name, besides localhost and the machine's own, under which a browser may reach the page; * for any.
    chat_template
        File with a chat template (Jinja), or its text, in the place of the model's own.
    default_chat_template_kwargs
        Variables of the chat template for requests that do not give them, as a JSON object: '{"enable_thinking": false}'.
    ssl_keyfile
        Private key (PEM) to serve over HTTPS with --ssl-certfile.
    ssl_certfile
        Certificate (PEM) to serve over HTTPS.
    root_path
        Path under which a proxy shows this server, such as /qwq.
    access_log
        File that gets one JSON line for each request; - for standard output. None is written by default.
    config
        TOML file with any of these options, a line each (max-model-len = 8192); the command line goes before it.
    """
    from qwq.engine.load import EngineOptions
    from qwq.errors import ConfigError, install_hint
    from qwq.pipeline.resolve import model_folder

    try:
        from qwq.serve.command import Served
        from qwq.serve.command import serve as run
        from qwq.serve.core import ServeOptions
    except ModuleNotFoundError as missing:
        raise ConfigError(f"qwq serve needs {missing.name}: {install_hint('serve')}") from None

    options = EngineOptions(
        dtype=DTYPE_NAMES.get(dtype, dtype), device=device, max_model_len=_tokens("--max-model-len", max_model_len),
        kv_tokens=_tokens("--kv-tokens", kv_tokens), max_num_seqs=max_num_seqs,
        token_budget=max_num_batched_tokens, threads=threads, deterministic=deterministic, speculate=speculate, yarn=yarn,
        quantization=quantization, draft_model=draft_model, draft_tokens=draft_tokens, prefix_cache=enable_prefix_caching,
    )  # fmt: skip
    if more and served_model_name:
        raise ConfigError("--served-model-name is for one model: with several write NAME=MODEL for each")
    models = [
        Served(model_folder(path), names) for path, names in (_named(m, served_model_name) for m in (model, *more))
    ]
    names = models[0].names
    if len({m.names[0] for m in models}) < len(models):
        raise ConfigError(
            f"two models would be called {names[0] if len(models) == 2 else 'alike'}: write NAME=MODEL for one of them"
        )
    keys = api_key or tuple(k for k in os.environ.get("QWQ_API_KEY", "").split(",") if k)
    if any(not m.strip() for m in (model, *more)):
        raise ConfigError("the model is empty: give a folder, a GGUF file or a hub's name")
    if any(not k.strip() for k in keys):
        raise ConfigError("--api-key is empty: give a key, or leave it out")
    if loop_tokens < 0 or not 0 <= port < 1 << 16:
        raise ConfigError(f"--loop-tokens {loop_tokens}, --port {port}: give 0 or more, and a port to 65535")
    if max_request_mib < 1 or shutdown_timeout < 0 or max_waiting < 0 or stored_responses < 0:
        raise ConfigError(
            "--max-request-mib must be 1 or more; --shutdown-timeout, --max-waiting and --stored-responses 0 or more"
        )
    home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "qwq" / "conversations.sqlite"
    kept = None if str(conversations) == ":memory:" else conversations or home
    serving = ServeOptions(
        names=names, loop_tokens=loop_tokens, max_waiting=max_waiting, api_keys=keys, limit_bytes=max_request_mib << 20, seed=seed,
        ignore_unknown=ignore_unknown_fields, cors_origins=allowed_origins, keep_tool_thinking=keep_tool_thinking, page=page, conversations=kept,
        conversations_wanted=conversations is not None, allowed_hosts=allowed_host,
        shutdown_s=shutdown_timeout, stored_responses=stored_responses, chat_template=chat_template,
        template_kwargs=_object("--default-chat-template-kwargs", default_chat_template_kwargs), access_log=access_log, root_path=root_path,
        ssl_files=None if ssl_certfile is None and ssl_keyfile is None else (ssl_certfile, ssl_keyfile),
    )  # fmt: skip
    return run(models, options, serving, host=host, port=port)


def chat(
    model: str,
    *,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    system: str | None = None,
    file: tuple[str, ...] = (),
    tools: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    max_new_tokens: int | None = None,
    thinking_budget: int | None = None,
    fold: bool = False,
    raw: bool = False,
    resume: bool = False,
    seed: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int | None = None,
    max_model_len: str | None = None,
    yarn: bool = False,
) -> int:
    """Talk to a model. `/help` lists what can be said to the program, Ctrl-C stops an answer, `/quit` ends.

    Lines that are pasted together are one question, and so is the text between two lines of triple double quotes. What comes through a pipe is one
    question, up to its end or to a line with a command.

    Parameters
    ----------
    model
        Model folder, GGUF file, a run's folder (its last policy), or a hub name.
    prompt
        Ask this one question, print the answer and end; - reads the question from standard input.
    system
        What the model is told first.
    file
        Text file that the model is shown with the (first) question; several may be given.
    tools
        Offer the calculator and answer its calls.
    temperature
        Sampling temperature; 0 takes the likeliest token. The model's own by default, as for all sampling.
    top_p
        Sample from the likeliest tokens that together have this probability.
    top_k
        Sample from so many of the likeliest tokens; 0 for all.
    min_p
        Leave out tokens less likely than this share of the likeliest one's probability.
    repetition_penalty
        Divide the logits of tokens that were there already; 1 for no penalty.
    presence_penalty
        Subtract this from the logits of tokens that the answer has already.
    frequency_penalty
        Subtract this for each time that the answer has a token already.
    max_new_tokens
        Longest answer, thinking included; half the model's context, at most 4,096, by default.
    thinking_budget
        End the thinking after so many tokens; an answer follows.
    fold
        Hide the thinking behind a counter.
    raw
        Show Markdown and formulas as they were written.
    resume
        Go on with the last conversation with this model.
    seed
        Seed of the sampling; a random one by default.
    device
        torch device.
    dtype
        As for `qwq serve`.
    threads
        CPU threads.
    max_model_len
        Longest conversation, in tokens, written as for `qwq serve`.
    yarn
        Stretch the context 4 times by YaRN (QwQ-32B does so without being asked).
    """
    from qwq.chat.command import run_chat
    from qwq.engine.load import EngineOptions
    from qwq.pipeline.resolve import model_folder

    options = EngineOptions(
        device=device,
        dtype=DTYPE_NAMES.get(dtype, dtype),
        threads=threads,
        max_model_len=_tokens("--max-model-len", max_model_len),
        yarn=yarn,
        max_num_seqs=1,
    )
    sampling = {
        "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    return run_chat(
        model_folder(model), options, prompt=prompt, system=system, files=file, tools=tools, sampling=sampling, seed=seed,
        thinking_budget=thinking_budget, fold=fold, raw=raw, resume_last=resume,
    )  # fmt: skip


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
        Tokens written by each request, 2 or more.
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
    from qwq.engine.bench import bench_engine as run
    from qwq.engine.load import EngineOptions
    from qwq.pipeline.resolve import model_folder

    options = EngineOptions(
        dtype=DTYPE_NAMES.get(dtype, dtype),
        device=device,
        threads=threads,
        deterministic=deterministic,
        quantization=quantization,
    )
    run(model_folder(model), options, prompt_tokens=prompt_tokens, new_tokens=new_tokens, requests=requests, seed=seed)
    return 0
