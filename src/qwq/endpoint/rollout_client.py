"""The client of one rollout engine: token ids in and out, and weights that it is told to load.

It speaks the paths of vLLM 0.32 (`/inference/v1/generate`, `/pause`, `/collective_rpc`,
`/update_weight_version`, `/resume`; a server in development mode, started with --enable-scale-out),
which `qwq serve --rollout-engine` offers too. Every call is bounded by a time-out. Nothing is tried
twice here: what becomes of a failed call is for the holder of the lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx2

from qwq.endpoint.openai_client import base_of, open_http
from qwq.errors import ConfigError, InfraError

EngineKind = Literal["qwq", "vllm"]
VLLM_PREFIX = "generate-tokens-"  # vLLM knows a request by its id behind this, and answers 200 to an abort of others


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One sample to be drawn from the model's plain distribution.

    `version` is the name of the weights that must answer; it salts the engine's prefix cache.
    `seed`, `stream` and `offset` name the random numbers (`GenerationRequest`); vLLM takes one seed
    for all three.
    """

    ident: str
    token_ids: Sequence[int]
    max_tokens: int
    temperature: float
    version: str
    seed: int = 0
    stream: int = 0
    offset: int = 0
    eos_ids: Sequence[int] = ()
    ignore_eos: bool = False
    thinking_budget: int | None = None
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """What an engine drew: tokens, log-probabilities (nats), the mask of sampled tokens, and for
    each token the name of the weights that drew it ("" where the engine does not say).

    `finish` is the engine's word for the end; `stop_reason` ours, "" from vLLM.
    """

    token_ids: list[int]
    logprobs: list[float]
    sampled_mask: list[int]
    versions: list[str]
    finish: str
    stop_reason: str = ""


class RolloutClient:
    """One engine at `url`. Threads may share a client. Nothing is sent before the first call."""

    def __init__(self, url: str, kind: EngineKind, *, api_key: str | None = None, connections: int = 64) -> None:
        base, local = base_of(url, "--rollout.endpoints")
        self.url, self.kind = base.removesuffix("/v1"), kind
        self._http = open_http(self.url, api_key, 60.0, local=local, connections=connections)

    def close(self) -> None:
        self._http.close()

    def context(self, timeout_s: float) -> int | None:
        """The longest prompt and answer together, in tokens, where the engine says it."""
        entries = self._call("GET", "/v1/models", None, timeout_s).get("data") or [{}]
        length = entries[0].get("max_model_len")
        return length if type(length) is int else None

    def sample(self, request: SampleRequest, timeout_s: float) -> Sample:
        """InfraError where the engine gives no sample, or one that breaks its protocol."""
        answer = self._call("POST", "/inference/v1/generate", self._body(request), timeout_s)
        try:
            (choice,) = answer["choices"]
            ids = [int(i) for i in choice["token_ids"]]
            content = choice["logprobs"]["content"]
            own = choice.get("qwq") or {}
            sample = Sample(
                ids, [float(c["logprob"]) for c in content], own.get("sampled_mask") or [1] * len(ids),
                _versions(choice.get("weight_versions") or (), len(ids)), str(choice["finish_reason"]),
                own.get("stop_reason", ""),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InfraError(
                f"{self.url} gave no sample: {type(error).__name__} {error} in {str(answer)[:200]}"
            ) from None
        if not len(ids) == len(content) == len(sample.sampled_mask) or not ids:
            raise InfraError(f"{self.url} gave {len(ids)} tokens with {len(content)} log-probabilities")
        if sample.finish == "abort":
            raise InfraError(f"{self.url} aborted request {request.ident}")
        return sample

    def _body(self, r: SampleRequest) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "max_tokens": r.max_tokens, "temperature": r.temperature, "top_p": 1.0, "top_k": 0, "logprobs": 0,
            "detokenize": False, "ignore_eos": r.ignore_eos, "seed": r.seed,
        }  # fmt: skip
        body: dict[str, Any] = {"request_id": r.ident, "token_ids": list(r.token_ids), "cache_salt": r.version}
        if self.kind == "qwq":
            own = {"stream": r.stream, "offset": r.offset, "thinking_budget": r.thinking_budget, "keep": r.keep}
            return body | {"sampling_params": sampling, "qwq": own}
        if r.thinking_budget is not None:
            raise ConfigError(
                "vLLM enforces no thinking budget of ours: leave thinking_budgets out, or sample with qwq"
            )
        # One seed for all three, so that samples of a group differ and a repeated request does not.
        sampling["seed"] = hash((r.seed, r.stream, r.offset)) % (1 << 31)
        return body | {"sampling_params": sampling | {"stop_token_ids": list(r.eos_ids) if not r.ignore_eos else []}}

    def abort(self, idents: Sequence[str], timeout_s: float) -> None:
        """Requests that are under way end with "abort"; unknown ones say nothing."""
        known = [VLLM_PREFIX + ident for ident in idents] if self.kind == "vllm" else list(idents)
        self._call("POST", "/inference/v1/abort_requests", {"request_ids": known}, timeout_s)

    # -- weights -----------------------------------------------------------------------------------

    def pause(self, mode: Literal["abort", "keep"], timeout_s: float) -> None:
        """No token is sampled until `resume`; requests under way are aborted or kept."""
        self._call("POST", f"/pause?mode={mode}", {}, timeout_s)

    def reload(self, folder: str, timeout_s: float) -> None:
        """Load the weights of a folder that both machines see. Where that fails, resume only after
        one that succeeded: vLLM's engine dies of a request that meets half-loaded weights.
        """
        self._call(
            "POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}}, timeout_s
        )

    def say_version(self, version: str, timeout_s: float) -> None:
        """The name that tokens get from here on: the engine does not know what it has loaded."""
        self._call("POST", "/update_weight_version", {"new_version": version}, timeout_s)

    def resume(self, timeout_s: float) -> None:
        self._call("POST", "/resume", {}, timeout_s)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float) -> dict[str, Any]:
        """The answer as JSON ({} where it is empty). InfraError where there is none in time."""
        try:
            answer = self._http.request(method, self.url + path, json=body, timeout=max(timeout_s, 0.001))
        except (httpx2.RequestError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            raise InfraError(f"{self.url}{path}: {type(error).__name__}: {error}") from None
        if answer.status_code >= 400:
            raise InfraError(f"{self.url}{path}: status {answer.status_code}: {' '.join(answer.text.split())[:300]}")
        try:
            read = answer.json() if answer.content else {}
        except ValueError:
            raise InfraError(f"{self.url}{path}: not JSON: {answer.text[:200]}") from None
        return read if isinstance(read, dict) else {}


def _versions(spans: Sequence[Mapping[str, Any]], length: int) -> list[str]:
    """The name for each token out of spans; ValueError where they do not cover the tokens."""
    out: list[str] = []
    for span in spans:
        if span["start"] != len(out):
            raise ValueError(f"weight_versions {list(spans)} are not of {length} tokens")
        out += [str(span["version"])] * (int(span["end"]) - len(out))
    if spans and len(out) != length:
        raise ValueError(f"weight_versions {list(spans)} are not of {length} tokens")
    return out or [""] * length
