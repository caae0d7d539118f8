"""Recorded calls become token-exact trajectories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwq.errors import CapacityError, ConfigError, DataError
from qwq.rollout.call_log import CALLS, CallLog, RecordedCall, RecordedSample, read_calls, trajectories
from qwq.types import Message, Problem, StopReason


def sample(ids: list[int], *, forced: int = 0, version: str = "", **more: object) -> RecordedSample:
    """An answer whose last `forced` tokens the engine wrote."""
    mask = [1] * (len(ids) - forced) + [0] * forced
    spans = [{"version": version, "start": 0, "end": len(ids)}]
    return RecordedSample(ids, mask, [-0.5 * m for m in mask], spans, "end", **more)  # type: ignore[arg-type]


def call(number: int, prompt: list[int], *samples: RecordedSample, episode: str = "e", **more: object) -> RecordedCall:
    return RecordedCall(number, "s", episode, "/v1/chat/completions", prompt, list(samples), {}, 0, **more)  # type: ignore[arg-type]


def test_a_call_that_continues_extends_the_segment() -> None:
    (made,) = trajectories([
        call(0, [1, 2], sample([3, 4], forced=1, version="7")),
        call(1, [1, 2, 3, 4, 9, 9], sample([5], version="8")),
    ])  # fmt: skip
    (segment,) = made.segments
    assert (segment.prompt_ids, segment.completion_ids) == ([1, 2], [3, 4, 9, 9, 5])
    assert segment.sampled_mask == [1, 0, 0, 0, 1]
    assert segment.sampler_logprobs == [-0.5, 0.0, 0.0, 0.0, -0.5]
    assert segment.weight_versions == [7, 7, 7, 7, 8]
    assert made.starts == ["first"] and made.num_sampled == 2


def test_a_rewritten_history_begins_a_segment() -> None:
    (made,) = trajectories([
        call(0, [1, 2], sample([3, 4])), call(1, [1, 2, 4, 9], sample([5])), call(2, [1, 2, 4, 9, 5, 6], sample([7])),
    ])  # fmt: skip
    assert [(s.prompt_ids, s.completion_ids) for s in made.segments] == [([1, 2], [3, 4]), ([1, 2, 4, 9], [5, 6, 7])]
    assert made.segments[1].sampled_mask == [1, 0, 1]
    assert made.starts == ["first", "2 of 4 prompt tokens as before"]


def test_a_retry_and_further_samples_are_segments_of_their_own() -> None:
    """The one that the program went on with continues, whichever it was."""
    (made,) = trajectories([
        call(0, [1], sample([2]), sample([3])), call(1, [1], sample([4])), call(2, [1, 3, 8], sample([5])),
    ])  # fmt: skip
    assert [(s.prompt_ids, s.completion_ids) for s in made.segments] == [([1], [2]), ([1], [3, 8, 5]), ([1], [4])]


def test_interleaved_episodes_and_nameless_calls_are_kept_apart() -> None:
    calls = [
        call(0, [1], sample([2]), episode="a"), call(1, [1], sample([3]), episode="b"),
        call(2, [1, 2, 9], sample([4]), episode="a"), call(3, [1, 3, 9], sample([5]), episode="b"),
        call(4, [6], sample([7]), episode=""), call(5, [6], sample([8]), episode=""),
        call(6, [6, 7, 1], sample([2]), episode=""),
    ]  # fmt: skip
    made = trajectories(calls)
    assert [(t.episode, [s.completion_ids for s in t.segments]) for t in made] == [
        ("a", [[2, 9, 4]]), ("b", [[3, 9, 5]]), ("", [[7, 1, 2]]), ("", [[8]]),
    ]  # fmt: skip


def test_what_cannot_be_trained_on_is_context_and_counted() -> None:
    (made,) = trajectories([
        call(0, [1], sample([2, 3], untrainable=["top_p 0.9"])), call(1, [1, 2, 3, 4], sample([5])),
        call(2, [9], sample([8], untrainable=["top_p 0.9", "grammar"])),
    ])  # fmt: skip
    assert made.segments[0].sampled_mask == [0, 0, 0, 1] and made.segments[0].sampler_logprobs == [0.0] * 3 + [-0.5]
    assert made.untrainable == {"top_p 0.9": 2, "grammar": 1}
    problem = Problem("p", "math", (Message("user", "q"),), {"gold": "5"}, "p")
    rollout = made.rollout(problem, 3, stop_reason=StopReason.END)
    assert (rollout.prompt_ids, rollout.segments, rollout.group) == ([1], [], 3)  # nothing to learn in the second
    nothing = trajectories([call(0, [1], sample([2], untrainable=["x"]))])[0]
    assert nothing.rollout(problem, 0, stop_reason=StopReason.END, prompt_ids=[4]).completion_ids == []


def test_versions_with_names_are_numbered_by_appearance() -> None:
    calls = [call(0, [1], sample([2], version="b")), call(1, [1, 2], sample([3], version="a")),
             call(2, [1, 2, 3], sample([4], version="b"))]  # fmt: skip
    assert trajectories(calls)[0].segments[0].weight_versions == [0, 1, 0]


def test_the_log_survives_a_kill_and_a_restart(tmp_path: Path) -> None:
    log = CallLog(tmp_path, {"id": "first", "model": "m"})
    # Lines are in the order in which calls ended.
    later = call(1, [1, 2], sample([3]))
    later.server = "first"
    log.append(later)
    first = call(0, [1], sample([2], text="é\ud800"))
    first.server = "first"
    log.append(first)
    with pytest.raises(ConfigError, match="another server records into .*give another --record"):
        CallLog(tmp_path, {"id": "second"})
    log.close()
    with (tmp_path / CALLS).open("ab") as file:
        file.write(b'{"number": 2, "samp')  # what a kill leaves
    log = CallLog(tmp_path, {"id": "second"})
    again = call(0, [1, 2, 3], sample([4]))
    again.server = "second"
    log.append(again)
    log.close()
    calls = read_calls(tmp_path)
    assert [(c.server, c.number) for c in calls] == [("first", 0), ("first", 1), ("second", 0)]
    assert calls[0].samples[0].text == "é\ud800"
    assert [s.completion_ids for s in trajectories(calls)[0].segments] == [[2, 3, 4]]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    log = CallLog(tmp_path, {"id": "s"})
    log.append(call(0, [1], sample([2])))
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / CALLS).stat().st_size + 20, hard))
    try:
        with pytest.raises(CapacityError, match="cannot be written"):
            log.append(call(1, [1, 2], sample([3])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(read_calls(tmp_path)) == 1
    log.append(call(1, [1, 2], sample([3])))
    log.close()
    assert [c.number for c in read_calls(tmp_path)] == [0, 1]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no calls\.jsonl in"):
        read_calls(tmp_path)
    log = CallLog(tmp_path, {"id": "s"})
    log.append(call(0, [1], sample([2])))
    log.close()
    whole = (tmp_path / CALLS).read_text()
    record = json.loads(whole.splitlines()[1])
    record["samples"][0]["logprobs"] = []
    for line in (json.dumps(record), '{"number": 1}', "[1]"):
        (tmp_path / CALLS).write_text(whole + line + "\n")
        with pytest.raises(DataError, match=r"line 3: no recorded call"):
            read_calls(tmp_path)
