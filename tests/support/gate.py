"""A TCP gate in front of a server, that can fail as machines and links do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Gate:
    """Forwards to `port`. `shut`: connections break and new ones are refused, as of a process that
    was killed; `hang`: bytes vanish, as of a stopped process or a cut link; `slow_s`: each piece of
    an answer waits so long; `open` is as at the start.
    """

    def __init__(self, port: int) -> None:
        self.port, self.state, self.slow_s = port, "open", 0.0
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def open(self) -> None:
        self.state = "open"

    def shut(self) -> None:
        self.state = "shut"
        self._drop()

    def hang(self) -> None:
        self.state = "hang"

    def slow(self) -> None:
        self.slow_s = 5.0

    def close(self) -> None:
        self.state = "closed"
        with contextlib.suppress(OSError):
            socket.create_connection(self._listener.getsockname(), 1).close()
        self._thread.join()
        self._listener.close()
        self._drop()

    def _drop(self) -> None:
        pairs, self._pairs = self._pairs, []
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while self.state != "closed":
            came, _ = self._listener.accept()
            if self.state in ("shut", "closed"):
                came.close()
                continue
            there = socket.create_connection(("127.0.0.1", self.port))
            self._pairs += [came, there]
            for pair, slowed in (((came, there), False), ((there, came), True)):
                threading.Thread(target=self._forward, args=(*pair, slowed), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, slowed: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.state == "hang":
                    continue
                if slowed and self.slow_s:
                    time.sleep(self.slow_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
