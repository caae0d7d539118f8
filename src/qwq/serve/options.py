"""How the server behaves, apart from how the engine runs: options of `qwq serve`, its configuration
file and `create_app`.

The text under a field is its help.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from qwq.engine.options import require_range
from qwq.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
IN_MEMORY = Path(":memory:")


def _object(kind: Any, tokens: Any) -> dict[str, Any]:
    text = tokens[0].value
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise ConfigError(f"{text!r}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ConfigError(f'{text!r}: give an object, such as {{"enable_thinking": false}}')
    return value


def _keys(kind: Any, text: str, delimiter: str | None = None) -> list[str]:
    return [key for key in text.split(",") if key]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a server offers, to whom, and within which limits.

    ConfigError for a value out of range.
    """

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    served_model_name: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Name that requests use; the file's or folder's by default. Several may be given; answers carry the first.
    With * among them any name is accepted, for programs with a built-in name."""
    api_key: Annotated[tuple[str, ...], Parameter(env_var="QWQ_API_KEY", env_var_split=_keys, show_default=False)] = ()
    """API key that clients must send; repeatable. Default: the comma-separated QWQ_API_KEY environment variable."""
    max_waiting: int = 256
    """Sequences that may wait; one more is answered 429."""
    loop_tokens: int = 192
    """Length of an exact repetition that ends an answer; 0 never ends one."""
    seed: int | None = None
    """Seed of requests without one, for reproducible runs; random by default."""
    keep_tool_thinking: bool = False
    """Keep the thinking before a tool call in the prompt when its result arrives, even if the model's template
    drops it.
    """
    ignore_unknown_fields: bool = False
    """Ignore unknown fields of requests, and values that are not implemented, and log each once; without it they
    are answered 400.
    """
    max_request_mib: int = 32
    """Largest request body, in MiB; a larger one is answered 413."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may send requests (CORS); * for all, none by default."""
    shutdown_timeout: float = 10.0
    """Seconds that running answers get when the server is stopped; then they are cut off."""
    stored_responses: int = 1000
    """Responses kept in memory for previous_response_id."""
    rollout_engine: bool = False
    """Offer what reinforcement learning samples with (docs/fleet.md): token ids in and out, and weights that a trainer
    replaces. Who can send requests can load any model folder of this machine that fits."""
    rollout_weights: Path | None = None
    """Folder that weights of --rollout-engine must be in; any by default."""
    record: Path | None = None
    """Folder that keeps every model call as tokens with their log-probabilities, to train on (docs/agent.md); a base
    URL that ends in /episodes/NAME/v1 names the episode."""
    model_sampling: Annotated[bool, Parameter(negative="--plain-sampling")] = True
    """Sampling settings of the model's files for requests without their own; --plain-sampling: temperature 1 and no
    cuts, so that what is recorded can be trained on."""
    mcp: bool = False
    """Offer python, run_code, verify_math and verify_code to other agents at /mcp; code runs in the jail."""
    hosted_tools: Annotated[tuple[Literal["code_interpreter", "mcp"], ...], Parameter(consume_multiple=True)] = ()
    """Tools of /v1/responses that this server runs itself: code_interpreter (Python in the jail), mcp (calls to MCP
    servers on the hosts of --hosted-mcp-host)."""
    hosted_mcp_host: tuple[str, ...] = ()
    """Host name to which requests may have this server make MCP calls; repeatable, * for any. Code and people that can
    send requests then reach that host from here."""
    hosted_max_calls: int = 32
    """Calls of hosted tools that one request may make."""
    hosted_max_seconds: float = 300.0
    """Seconds after which a request with hosted tools makes no further turn."""
    page: Annotated[bool, Parameter(negative="--no-page")] = True
    """Serve the chat page at /."""
    agent: bool = False
    """Agent mode of the page: the model works with Python, files, SQL and a shell in the jail."""
    agent_runs: Path | None = None
    """Folder for the runs of the page's agent; ~/.local/share/qwq/agent (or below $XDG_DATA_HOME) by default."""
    agent_mcp: Path | None = None
    """File of MCP servers ({"mcpServers": {...}}) whose tools the page's agent may use."""
    agent_policy: Path | None = None
    """TOML file of rules for the page's agent (docs/agent.md): which calls run, ask or are denied."""
    conversations: Path | None = None
    """File for the page's conversations; ~/.local/share/qwq/conversations.sqlite (or below $XDG_DATA_HOME) by
    default, :memory: for none."""
    allowed_host: tuple[str, ...] = ()
    """Host name, besides localhost and the machine's own, under which a browser may reach the page; * for any."""
    chat_template: str | None = None
    """Chat template (Jinja file, or its text) that replaces the model's own."""
    default_chat_template_kwargs: Annotated[
        Mapping[str, Any], Parameter(converter=_object, n_tokens=1, accepts_keys=False, show_default=False)
    ] = field(default_factory=dict)
    """Variables of the chat template for requests that do not set them, as a JSON object: '{"enable_thinking":
    false}'.
    """
    ssl_keyfile: Path | None = None
    """Private key (PEM) to serve over HTTPS with --ssl-certfile."""
    ssl_certfile: Path | None = None
    """Certificate (PEM) to serve over HTTPS."""
    root_path: str = ""
    """Path prefix under which a proxy exposes this server, such as /qwq."""
    access_log: str | None = None
    """File that gets one JSON line per request; - for standard output. None is written by default."""

    def __post_init__(self) -> None:
        if any(not key.strip() for key in self.api_key):
            raise ConfigError("--api-key is empty: give a key, or leave it out")
        if self.ssl_certfile is None and self.ssl_keyfile is not None:
            raise ConfigError("--ssl-keyfile needs --ssl-certfile")
        require_range("--port", self.port, 0, 65535)
        require_range("--loop-tokens", self.loop_tokens, 0)
        require_range("--max-request-mib", self.max_request_mib, 1)
        require_range("--shutdown-timeout", self.shutdown_timeout, 0)
        require_range("--max-waiting", self.max_waiting, 0)
        require_range("--stored-responses", self.stored_responses, 0)
        require_range("--hosted-max-calls", self.hosted_max_calls, 1)
        require_range("--hosted-max-seconds", self.hosted_max_seconds, 1)
        if self.rollout_weights is not None and not self.rollout_engine:
            raise ConfigError("--rollout-weights needs --rollout-engine")
        if self.rollout_engine and not self.api_key and self.host not in LOOPBACK:
            raise ConfigError(
                f"--rollout-engine on {self.host} lets anybody there replace the weights: give --api-key, or listen on "
                "127.0.0.1"
            )
        if not self.agent and (self.agent_runs or self.agent_mcp or self.agent_policy):
            raise ConfigError("--agent-runs, --agent-mcp and --agent-policy need --agent")
        if self.agent and not self.page:
            raise ConfigError("--agent is a mode of the page: leave --no-page out")
        if "mcp" in self.hosted_tools and not self.hosted_mcp_host:
            raise ConfigError("--hosted-tools mcp needs --hosted-mcp-host: name the hosts that may be called")

    @property
    def name(self) -> str:
        """The model's usual name."""
        return self.served_model_name[0]

    @property
    def limit_bytes(self) -> int:
        return self.max_request_mib << 20

    @property
    def conversations_file(self) -> Path | None:
        """Where the page's conversations are kept; None keeps them in memory."""
        if self.conversations == IN_MEMORY:
            return None
        return self.conversations or data_home() / "conversations.sqlite"

    @property
    def agent_folder(self) -> Path:
        """Where the runs of the page's agent are kept."""
        return (self.agent_runs or data_home() / "agent").expanduser()


def data_home() -> Path:
    """Where this program keeps a user's data."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "qwq"


SERVE_DEFAULTS = ServeOptions()
