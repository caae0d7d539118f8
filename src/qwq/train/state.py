"""What a stage remembers from step to step beside its tensors: `state.json` of a checkpoint, typed.

`StageState` holds what every stage has. A module that remembers more has a dataclass for it, and
`part` gives the stage's one instance:

    @dataclass
    class Cursor:
        next_row: int = 0

    cursor = job.run.state.part(Cursor)  # its values are the checkpoint's after `job.run.resume`

On disk all fields lie side by side under their own names, so no two dataclasses may share one.
Every field has a default; one whose value is None is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, cast

from qwq.errors import ModelError

VERSION = 1  # a checkpoint without a version has the same names
Part = TypeVar("Part")


@dataclass(slots=True)
class StageState:
    """The state of one stage. `to_dict` and `load` write and read `state.json`."""

    step: int = 0  # steps taken
    seconds: float = 0.0  # of training
    ended: str | None = None  # why the stage ended before its last step
    data: list[dict[str, Any]] = field(default_factory=list)  # what it took of its data files
    _parts: dict[type, Any] = field(default_factory=dict, repr=False)
    _stored: dict[str, Any] = field(default_factory=dict, repr=False)  # as read, for parts that ask later

    def part(self, kind: type[Part]) -> Part:
        """The stage's instance of the dataclass `kind`, filled from the checkpoint that was read,
        if any.
        """
        if kind not in self._parts:
            names = {f.name for f in fields(cast(Any, kind))}
            for other in (type(self), *self._parts):
                if shared := names & {f.name for f in fields(other)}:
                    raise ValueError(f"{kind.__name__} and {other.__name__} both have a field {min(shared)}")
            self._parts[kind] = kind()
            _fill(self._parts[kind], self._stored)
        return cast(Part, self._parts[kind])

    def load(self, stored: Mapping[str, Any]) -> None:
        """Take the values of a `state.json`, in place.

        ModelError if a newer qwq wrote it or a value has another type.
        """
        if stored.get("version", 0) > VERSION:
            raise ModelError(
                f"the checkpoint's state has version {stored['version']}, this qwq reads up to {VERSION}: "
                "continue with the qwq that wrote it, or start again with --fresh"
            )
        self._stored = dict(stored)
        for part in (self, *self._parts.values()):
            _fill(part, stored)

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = {"version": VERSION} | {k: v for k, v in self._stored.items() if k != "version"}
        for part in (self, *self._parts.values()):
            own = {f.name: getattr(part, f.name) for f in fields(part) if not f.name.startswith("_")}
            for name, value in own.items():
                if value is None:
                    values.pop(name, None)
                else:
                    values[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        return values


def _fill(part: Any, stored: Mapping[str, Any]) -> None:
    """Set the fields of `part` that `stored` has."""
    for f in fields(part):
        if f.name.startswith("_") or f.name not in stored:
            continue
        value, now = stored[f.name], getattr(part, f.name)
        if is_dataclass(now) and isinstance(value, dict):
            _fill(now, value)
            continue
        expected = (int, float) if isinstance(now, float) else type(now)
        if now is not None and not isinstance(value, expected):
            raise ModelError(
                f"the checkpoint's state has {f.name} = {value!r:.60}, expected {type(now).__name__}: "
                "start the stage again with --fresh"
            )
        setattr(part, f.name, value)
