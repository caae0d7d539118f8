"""An OpenAI-compatible server in this process, whose answers a test writes; it counts what it is
asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any] | str | tuple[int, Any]]


class FakeEndpoint:
    """`answer(body)` gives the text, a whole message, (status, text) of a refusal, or (status,
    object) of any body.

    A message may hold `finish_reason`, which is taken out and sent as the choice's.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        models: list[dict[str, Any]] | None = None,
        finish: str = "stop",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def send(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.send(200, {"data": models}) if models is not None else self.send(404, {"error": "none"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.asked.append(body)
                    outer.headers.append(self.headers.get("Authorization"))
                got = answer(body)
                if isinstance(got, tuple):
                    return self.send(got[0], {"error": {"message": got[1]}} if isinstance(got[1], str) else got[1])
                message = {"role": "assistant", "content": got} if isinstance(got, str) else dict(got)
                ending = message.pop("finish_reason", "tool_calls" if message.get("tool_calls") else finish)
                usage = {
                    "completion_tokens": 10,
                    "completion_tokens_details": {"reasoning_tokens": 4 if message.get("reasoning_content") else 0},
                }
                return self.send(
                    200, {"choices": [{"index": 0, "message": message, "finish_reason": ending}], "usage": usage}
                )

        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def __enter__(self) -> FakeEndpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def question_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]
