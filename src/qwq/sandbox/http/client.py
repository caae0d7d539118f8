"""`RemoteSandbox`: a sandbox on a server, with the same methods as the local one. Threads may share
it.

    with RemoteSandbox("http://127.0.0.1:8080") as box:
        verify("def f(x): return x + 1", tests, sandbox=box)         # graded here; expected values stay here
        for index, verdict in box.verify_many(lines): ...            # graded on the server, as they finish
        with box.session() as session: session.run("x = 1")          # Python that keeps state, on the server

A connection that breaks, a server that restarts and a full queue are waited out: what has not been
answered is sent again under the id it had, so that a server that has it already runs it no second
time, and each item is answered once.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import httpx2

from qwq.errors import InfraError, UsageError
from qwq.sandbox.cells import CellResult
from qwq.sandbox.http.protocol import execution_from_dict
from qwq.sandbox.interpreter import SessionLimits
from qwq.sandbox.limits import Limits
from qwq.sandbox.runner import Execution, Runner
from qwq.sandbox.session import Cells

PATIENCE_S = 120.0
_READ_TIMEOUT_S = 35.0  # the server writes something at least every ten seconds
_MAX_BATCH = 512
_MAX_BATCH_BYTES = 16 << 20
_LATER = (429, 502, 503, 504)


class _TryLater(Exception):
    def __init__(self, reason: str, wait_s: float | None = None):
        super().__init__(reason)
        self.wait_s = wait_s


class RemoteSandbox(Runner):
    """Runs programs on the server at `url`.

    Raises InfraError where nothing could be had from it for `patience_s`.
    """

    def __init__(self, url: str, *, api_key: str | None = None, patience_s: float = PATIENCE_S):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is not the URL of a sandbox server: give one like http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        headers = {"Content-Type": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(_READ_TIMEOUT_S, connect=5.0),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,  # a proxy of the environment is not meant for a sandbox
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def health(self) -> dict[str, Any]:
        """What the server says of itself. Raises InfraError where it cannot be reached."""
        try:
            answer = self._client.get(f"{self.url}/health")
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise InfraError(f"no sandbox server at {self.url}: {error}") from error
        return dict(answer.json())

    def session(
        self, limits: SessionLimits | None = None, *, replay: bool = True, programs: bool = False
    ) -> RemoteSession:
        """Python that keeps state, on the server; `programs` shows bash and the system's programs,
        too. Raises UsageError where the server refuses it: too many are open, it allows less than
        `limits`, or its jail shows no programs.
        """
        options = {"replay": replay, "programs": True} if programs else {"replay": replay}
        return RemoteSession(self, {**asdict(limits or SessionLimits()), **options})

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to one request, not sent again where the connection breaks.

        Raises InfraError and UsageError.
        """
        content = None if body is None else json.dumps(body)
        try:
            answer = self._client.request(method, f"{self.url}{path}", content=content)
        except httpx2.HTTPError as error:
            raise InfraError(f"no answer from {self.url}: {error}") from error
        if answer.status_code >= 400:
            kind = InfraError if answer.status_code >= 500 else UsageError
            raise kind(f"{self.url} refused the request ({answer.status_code}): {_message(answer)}")
        return answer.json() if answer.content else None

    def _execute(self, request: Mapping[str, Any], stdin: bytes, limits: Limits) -> Execution:
        item = {
            "kind": "execute",
            "request": dict(request),
            "stdin": base64.b64encode(stdin).decode(),
            "limits": {
                "timeout_s": limits.timeout_s,
                "memory_mb": limits.memory_mb,
                "output_limit_bytes": limits.output_limit_bytes,
                "each_record": limits.each_record,
                "total_timeout_s": limits.total_timeout_s,
            },
        }
        ((_, result),) = self.batch([item])
        error = result.get("error")
        if error is not None:
            raise (UsageError if error["kind"] == "usage" else InfraError)(error["message"])
        return execution_from_dict(result["execution"])

    def verify_many(self, lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, verdict as a dict) of lines with `code` and `tests`, graded on the server, in
        order of finishing.

        A line whose tests are malformed gives {"error": {"kind": "usage", "message"}} in place of a
        verdict.
        """
        for index, result in self.batch([{"kind": "verify", **line} for line in lines]):
            yield index, result.get("verdict", result)

    def batch(self, items: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(index, result) of each item, once, in order of finishing; see `protocol.py` for both."""
        left = {index: json.dumps({"id": uuid.uuid4().hex, **item}) for index, item in enumerate(items)}
        last = time.monotonic()
        pause_s = 0.05
        while left:
            try:
                for index, result in self._once(left):
                    error = result.get("error")
                    if index not in left or (error and error["kind"] == "cancelled"):
                        continue  # the server gave it up while it shut down: it goes to the next one
                    del left[index]
                    last, pause_s = time.monotonic(), 0.05
                    yield index, result
            except (_TryLater, httpx2.TransportError) as error:
                if time.monotonic() - last > self.patience_s:
                    raise InfraError(f"no answer from {self.url} for {self.patience_s:g} s: {error}") from error
                asked_s = error.wait_s if isinstance(error, _TryLater) else None
                time.sleep(asked_s or pause_s)
                pause_s = min(2.0, 2 * pause_s)

    def _once(self, left: Mapping[int, str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Send some of what is left in one request, yield what comes back."""
        chosen: list[int] = []
        size = 0
        for index in left:
            size += len(left[index])
            if chosen and (len(chosen) == _MAX_BATCH or size > _MAX_BATCH_BYTES):
                break
            chosen.append(index)
        body = '{"items": [' + ", ".join(left[index] for index in chosen) + "]}"
        with self._client.stream("POST", f"{self.url}/batch", content=body) as answer:
            if answer.status_code != 200:
                self._refused(answer)
            received = 0
            for line in answer.iter_lines():
                if line:
                    result = json.loads(line)
                    received += 1
                    yield chosen[result["index"]], result
        if received < len(chosen):
            raise _TryLater("the answer ended early")

    def _refused(self, answer: httpx2.Response) -> None:
        answer.read()
        message = _message(answer)
        if answer.status_code in _LATER:
            after = answer.headers.get("retry-after", "")
            raise _TryLater(message, float(after) if after.isdigit() else None)
        if 400 <= answer.status_code < 500:
            raise UsageError(f"{self.url} refused the request ({answer.status_code}): {message}")
        raise InfraError(f"{self.url} failed ({answer.status_code}): {message}")


def _message(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


class RemoteSession(Cells):
    """A session on a server, made by `RemoteSandbox.session`. Where the connection breaks, the cell
    that runs is interrupted and the call raises InfraError: whether a cell has run is not guessed.
    """

    def __init__(self, box: RemoteSandbox, request: Mapping[str, Any]):
        self._box = box
        self.id: str | None = box.json("POST", "/sessions", request)["id"]

    def _path(self) -> str:
        if self.id is None:
            raise UsageError("this session is closed: open another")
        return f"/sessions/{self.id}"

    def send(
        self, code: str | None, files: Mapping[str, bytes], fetch: Sequence[str], timeout_s: float | None
    ) -> CellResult:
        body = {
            "code": code,
            "files": {name: base64.b64encode(data).decode() for name, data in files.items()},
            "fetch": list(fetch),
            "timeout_s": timeout_s,
        }
        answer = self._box.json("POST", f"{self._path()}/cells", body)
        if "status" not in answer:
            error = answer["error"]
            raise (UsageError if error["kind"] == "usage" else InfraError)(error["message"])
        return CellResult.from_dict(answer)

    def interrupt(self) -> None:
        self._box.json("POST", f"{self._path()}/interrupt", {})

    def restart(self, *, replay: bool = True) -> list[int]:
        return list(self._box.json("POST", f"{self._path()}/restart", {"replay": replay})["differs"])

    def close(self) -> None:
        if self.id is not None:
            path, self.id = self._path(), None
            with contextlib.suppress(UsageError):  # the server has closed it already
                self._box.json("DELETE", path)
