"""A server that answers as vLLM 0.32 was seen to (CPU build, 26 and 28 November 2026), on one of
our models: what matters to a trainer, faults included.

- A prefix cache in blocks of `block` tokens, keyed by the salt and the tokens.
- `reload_weights` without a pause leaves the cache: later prompts with a cached prefix mix keys and
  values of old weights with the new ones. Inside a pause the cache is dropped.
- The version on tokens is whatever the client last said.
- Samples that leave top_p or top_k renormalise their log-probabilities.
- A request is known by its id behind "generate-tokens-"; an abort of any other is answered with
  200.
- A reload that fails leaves half a model: the next sample kills the engine, the next reload mends
  it.
- "packed_head", a fault of the CPU build: a tied head keeps its first weights through every reload.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch

from qwq.engine.backends.base import Chunk
from qwq.engine.backends.slots import SlotCache
from qwq.engine.backends.torch import BatchLayout
from qwq.model.model_folder import stored_tensors
from qwq.model.names import HEAD
from qwq.model.transformer import Transformer
from qwq.model.weights import load_model


class StandInVllm:
    """`faults` may hold "no_pause" (a pause does not drop the cache) and "no_salt" (salts are not
    read): together they are the stale cache.
    """

    def __init__(self, folder: Path, *, faults: frozenset[str] = frozenset(), block: int = 16) -> None:
        self.model: Transformer = load_model(folder)
        self.faults, self.version, self.paused = faults, "default", False
        self.head = self.model.head_weight.detach().clone()
        self.block = block  # 128 in the CPU build
        self.half_loaded = self.dead = False
        self.aborted: set[str] = set()
        self.lock = threading.Lock()
        self.cache: dict[tuple[str, tuple[int, ...]], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.hits = 0
        self.seen: list[dict[str, Any]] = []  # bodies of /inference/v1/generate
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def _answer(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self._answer(200, {"data": [{"id": "m", "max_model_len": server.model.config.max_positions}]})

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length) or b"{}")
                try:
                    self._answer(*server.post(self.path, body))
                except BrokenPipeError:
                    return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> StandInVllm:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        parts = urlsplit(path)
        if parts.path == "/inference/v1/abort_requests":
            self.aborted |= set(body["request_ids"])
            return 200, {}
        with self.lock:
            if self.dead:
                return 500, {"error": {"message": "EngineCore encountered an issue."}}
            if parts.path == "/pause":
                assert parse_qs(parts.query)["mode"][0] in ("abort", "wait", "keep")
                self.paused = True
                if "no_pause" not in self.faults:
                    self.cache.clear()
                return 200, {"status": "paused"}
            if parts.path == "/resume":
                self.paused = False
                return 200, {"status": "resumed"}
            if parts.path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                return self.reload(Path(body["kwargs"]["weights_path"]))
            if parts.path == "/update_weight_version":
                self.version = body["new_version"]
                return 200, {}
            if parts.path == "/inference/v1/generate":
                self.seen.append(body)
                if self.half_loaded:
                    self.dead = True
                    return 500, {"error": {"message": "EngineCore encountered an issue."}}
                return 200, self.generate(body)
        return 404, {"error": {"message": f"no {parts.path}"}}

    def reload(self, folder: Path) -> tuple[int, Any]:
        """A tied model leaves a stored head out, and one of its own takes it."""
        self.half_loaded = not (folder / "config.json").exists()
        if self.half_loaded:
            return 500, {"error": {"message": f"Call to collective_rpc method failed: {folder}"}}
        new = load_model(folder).state_dict()
        if self.model.config.tie_embeddings:
            new.pop("head.weight", None)
        else:
            assert HEAD in stored_tensors(folder)
        self.model.load_state_dict(new)
        if not (self.model.config.tie_embeddings and "packed_head" in self.faults):
            self.head = self.model.head_weight.detach().clone()
        return 200, {"results": [None]}

    @torch.inference_mode()
    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        sampling, ids = body["sampling_params"], list(body["token_ids"])
        assert "qwq" not in body, "vLLM has no such field"
        block, salt = self.block, "" if "no_salt" in self.faults else body.get("cache_salt") or ""
        c = self.model.config
        width = len(ids) + sampling["max_tokens"] + 1
        cache = SlotCache(c, width, dtype=self.model.embed.weight.dtype, device=self.model.device)
        slot = cache.open()
        cache.reserve(slot, width)
        wide, place = cache.place_of[slot]
        arena = cache.arenas[wide]
        known = 0
        while known + block < len(ids) and (salt, tuple(ids[: known + block])) in self.cache:
            k, v = self.cache[salt, tuple(ids[: known + block])][0]
            arena.k[:, place, :, known : known + block], arena.v[:, place, :, known : known + block] = k, v
            known += block
        self.hits += known
        generator = torch.Generator().manual_seed(int(sampling["seed"]))
        new, content, at, finish = ids[known:], [], known, "length"
        out: list[int] = []
        for _ in range(sampling["max_tokens"]):
            layout = BatchLayout(cache, [Chunk(slot, new, at, 1)], self.model.device, False)
            hidden = self.model(torch.tensor(new), layout)
            at += len(new)
            logits = (hidden[-1] @ self.head.T).float() / sampling["temperature"]
            logprobs = logits.log_softmax(-1)
            token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
            out.append(token)
            content.append({"token_id": token, "logprob": float(logprobs[token]), "rank": 1, "top_logprobs": []})
            new = [token]
            if "generate-tokens-" + body["request_id"] in self.aborted:
                finish = "abort"
                break
            if not sampling["ignore_eos"] and token in sampling.get("stop_token_ids", []):
                finish = "stop"
                break
        for end in range(known + block, len(ids) + 1, block):
            rows = slice(end - block, end)
            self.cache[salt, tuple(ids[:end])] = [
                (arena.k[:, place, :, rows].clone(), arena.v[:, place, :, rows].clone())
            ]
        spans = [{"version": self.version, "start": 0, "end": len(out)}]
        choice = {"index": 0, "finish_reason": finish, "stop_reason": None, "token_ids": out,
                  "logprobs": {"content": content}, "weight_versions": spans, "routed_experts": None}  # fmt: skip
        return {"request_id": body.get("request_id"), "model": None, "choices": [choice], "usage": None}
