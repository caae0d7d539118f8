"""The log of accepted groups reads back what it was given."""

from __future__ import annotations

from qwq.rollout.accepted import AcceptedGroups, SampledGroup
from qwq.rollout.leases import GroupKey
from qwq.types import ParsedResponse, Response, Rollout, StopReason, ToolCall


def test_groups_with_calls_and_turns_survive_a_restart(tmp_path):
    call = ToolCall("python", {"code": "1 + 1"})
    parts = ParsedResponse("hm", "2", (call,), malformed_calls=("{",), attempts=(call, "{"))
    response = Response("hm 2", calls=(call,), results=("2",), parts=parts, turns=(parts,))
    rollout = Rollout("p", "math", 7, [1, 2], [3, 4], [1, 0], [-0.1, 0.0], [5, 4], StopReason.END, text="\ud83d")
    group = SampledGroup(GroupKey("rl1", 3, 7, 1, 0), [rollout], [response])
    assert group.oldest_version == 4
    log = AcceptedGroups(tmp_path, 3)
    log.add(group)
    log.close()
    with (tmp_path / "step-00003.jsonl").open("ab") as file:
        file.write(b'{"key": {"stage": "rl1", "st')  # a kill in the middle of the next line
    again = AcceptedGroups(tmp_path, 3)
    (read,) = again.groups()
    again.close()
    assert read == group and read.responses[0].parts.attempts == (call, "{")
