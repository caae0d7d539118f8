"""Which version of the weights sampled which tokens of the requests under way."""

from __future__ import annotations

import threading
from typing import Any

from qwq.engine.sequence import TokenSequence
from qwq.serve.engine_thread import RequestGroup


class WeightVersions:
    """Spans of the requests between `begin` and `end`. `name` is the version that samples now; ""
    until it is said.
    """

    def __init__(self) -> None:
        self.name = ""
        self._lock = threading.Lock()
        self._spans: dict[RequestGroup, list[tuple[dict[TokenSequence, int], str]]] = {}

    def begin(self, group: RequestGroup) -> None:
        with self._lock:
            self._spans[group] = [({}, self.name)]

    def change(self, name: str) -> None:
        """Called between two steps: tokens sampled from here on are of version `name`."""
        with self._lock:
            self.name = name
            for group, spans in self._spans.items():
                spans.append(({s: len(s.ids) for samples in group.samples for s in samples}, name))

    def spans(self, group: RequestGroup, sample: TokenSequence, length: int) -> list[dict[str, Any]]:
        """The versions of a sample's first `length` tokens: `version`, `start`, `end`."""
        with self._lock:
            spans = self._spans.get(group, [])
        starts = [counts.get(sample, 0) for counts, _ in spans]
        ends = [*starts[1:], length]
        return [
            {"version": name, "start": at, "end": end}
            for at, end, (_, name) in zip(starts, ends, spans, strict=True)
            if end > at
        ]

    def end(self, group: RequestGroup) -> None:
        with self._lock:
            self._spans.pop(group, None)
