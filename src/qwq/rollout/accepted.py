"""The log of accepted groups: a group is on the disk before it counts.

One growing file a step, `fleet/STAGE/step-NNNNN.jsonl`, gone when the step's rollouts are written
whole (`RolloutStore`). A run that was killed between two groups finds those that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwq.rollout.leases import GroupKey
from qwq.rollout.store import SampleStore
from qwq.types import ParsedResponse, Response, Rollout, ToolCall


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """The samples of a group, and what a verifier sees of each."""

    key: GroupKey
    rollouts: list[Rollout]
    responses: list[Response]

    @property
    def oldest_version(self) -> int:
        """The number of the weights that sampled the oldest token."""
        return oldest_version(self.rollouts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "key": asdict(self.key),
            "rollouts": [r.to_dict() for r in self.rollouts],
            "responses": [response_to_dict(r) for r in self.responses],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SampledGroup:
        return cls(
            GroupKey(**data["key"]),
            [Rollout.from_dict(r) for r in data["rollouts"]],
            [response_from_dict(r) for r in data["responses"]],
        )


class AcceptedGroups:
    """The log of one step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = self.path_of(folder, step)
        self._store: SampleStore[tuple[Any, ...]] = SampleStore(self.path, _key)

    @staticmethod
    def path_of(folder: Path, step: int) -> Path:
        return folder / f"step-{step:05d}.jsonl"

    def groups(self) -> list[SampledGroup]:
        """The groups that were accepted before."""
        return [SampledGroup.from_dict(record) for record in self._store.records.values()]

    def add(self, group: SampledGroup) -> None:
        self._store.add(group.to_dict())

    def close(self) -> None:
        self._store.close()


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    key = record["key"]
    return key["stage"], key["step"], key["group"], key["samples"], key["seed"]


def response_to_dict(response: Response) -> dict[str, Any]:
    return asdict(response)


def response_from_dict(data: Mapping[str, Any]) -> Response:
    return Response(
        **{
            **data,
            "calls": tuple(ToolCall(**c) for c in data["calls"]),
            "results": tuple(data["results"]),
            "parts": None if data["parts"] is None else _parts(data["parts"]),
            "turns": tuple(_parts(t) for t in data["turns"]),
        }
    )


def _parts(data: Mapping[str, Any]) -> ParsedResponse:
    return ParsedResponse(
        **{
            **data,
            "tool_calls": tuple(ToolCall(**c) for c in data["tool_calls"]),
            "malformed_calls": tuple(data["malformed_calls"]),
            "attempts": tuple(a if isinstance(a, str) else ToolCall(**a) for a in data["attempts"]),
        }
    )


def oldest_version(rollouts: Sequence[Rollout]) -> int:
    """The number of the weights that sampled the oldest token of all."""
    return min((v for r in rollouts for v in r.weight_versions), default=0)
