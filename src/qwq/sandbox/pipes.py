"""What a run and its parent exchange: sealed memory files going in, pipes coming out."""

from __future__ import annotations

import contextlib
import fcntl
import os

from qwq.sandbox.limits import RESULT_LIMIT_BYTES, Limits

_CHUNK = 1 << 16
_PIPE_BYTES = 1 << 20


def sealed_memory(name: str, data: bytes) -> int:
    """A read-only in-memory file at offset 0."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class Pipes:
    """The parent's ends of stdout, stderr and the result channel, and what was read from them."""

    def __init__(self, limits: Limits, own_uid: int | None, stdout: int | None):
        self.limit = limits.output_limit_bytes
        self.read_ends: list[int] = []
        self.write_ends: list[int] = []
        for _ in range(3):
            read, write = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(read, False)
            self.read_ends.append(read)
            self.write_ends.append(write)
            if own_uid is not None:
                os.fchown(write, own_uid, own_uid)  # so that the program may open /dev/stdout
        with contextlib.suppress(OSError):
            # node leaves at its end what a full pipe has not taken.
            fcntl.fcntl(self.write_ends[0], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        if stdout is not None:  # goes to another run
            os.close(self.write_ends[0])
            self.write_ends[0] = stdout
        self.data = [bytearray(), bytearray(), bytearray()]
        self.open = set(self.read_ends)
        self.records = 0
        self._searched = 0

    def read(self, fd: int, *, keep: bool = True) -> bool:
        """Take what is there, and drop what goes to stdout and stderr where it is not kept; False
        at the end of the stream or where nothing is there.
        """
        try:
            chunk = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self.open.discard(fd)
            return False
        stream = self.read_ends.index(fd)
        if keep or stream == 2:
            self.data[stream] += chunk
        if stream == 2:
            self.records += chunk.count(b"\n")
            if (
                len(self.data[2]) > 2 * RESULT_LIMIT_BYTES
            ):  # somebody writes without end: the last of it may still count
                del self.data[2][:RESULT_LIMIT_BYTES]
                self._searched = 0
        return True

    def too_much(self) -> bool:
        return len(self.data[0]) + len(self.data[1]) > self.limit or len(self.data[2]) > RESULT_LIMIT_BYTES

    def line_with(self, mark: bytes) -> bytes:
        """The first whole line of the result channel that holds `mark`, or b"".

        Looks at what is new only.
        """
        results = self.data[2]
        at = results.find(mark, self._searched)
        end = results.find(b"\n", at) if at >= 0 else -1
        if end < 0:
            self._searched = max(0, len(results) - len(mark)) if at < 0 else at
            return b""
        return bytes(results[results.rfind(b"\n", 0, at) + 1 : end])

    def drain(self) -> None:
        for fd in list(self.open):
            while not self.too_much() and self.read(fd):
                pass

    def close_write_ends(self) -> None:
        for fd in self.write_ends:
            os.close(fd)
        self.write_ends = []

    def close(self) -> None:
        self.close_write_ends()
        for fd in self.read_ends:
            os.close(fd)
