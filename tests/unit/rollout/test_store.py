"""The three users of the sample store (evaluation, distillation, rollouts) after a kill, half a
file and a full disk.
"""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwq.distill import run as distill_run
from qwq.errors import CapacityError, ConfigError, DataError
from qwq.eval.folder import agree, open_samples, read_samples
from qwq.rollout.store import RolloutStore, SampleStore
from qwq.types import Message, Outcome, Problem, Rollout, StopReason, Verdict

SETTINGS = {"teacher": "t", "temperature": 0.6}


def evaluation(out: Path) -> SampleStore[Any]:
    return open_samples(out, "gsm8k")


def distillation(out: Path, **settings: Any) -> SampleStore[Any]:
    path = out / "sft.jsonl.samples.jsonl"
    return SampleStore(
        path, distill_run._key, counts=distill_run._is_sample, settings=SETTINGS | settings,
        pending=path.with_suffix(".pending"), durable=True,
    )  # fmt: skip


def sample(name: str, number: int = 0, text: str = "4", outcome: Outcome = Outcome.CORRECT) -> dict[str, Any]:
    """A record that both stores take."""
    return {
        "problem_id": name, "sample": number, "number": number, "thinking_budget": None, "output": text, "text": text,
        "finish": "stop", "verdict": Verdict(outcome, "", "math").to_dict(),
    }  # fmt: skip


STORES = pytest.mark.parametrize("store_of", [evaluation, distillation])


def texts(store: SampleStore[Any]) -> dict[str, str]:
    return {key[0]: record["text"] for key, record in store.records.items()}


@STORES
def test_the_last_line_of_a_sample_counts(tmp_path: Path, store_of: Any) -> None:
    store = store_of(tmp_path)
    for record in (sample("a", text="1"), sample("b"), sample("a", text="2"), sample("b", text="half \ud83d")):
        store.add(record)
    store.close()
    again = store_of(tmp_path)
    assert texts(again) == texts(store) == {"a": "2", "b": "half \ud83d"}
    again.close()


@STORES
@pytest.mark.parametrize("cut", [1, 30, 90])
def test_a_torn_last_line_is_a_sample_that_was_never_made(tmp_path: Path, store_of: Any, cut: int) -> None:
    store = store_of(tmp_path)
    store.add(sample("a"))
    store.add(sample("b"))
    store.close()
    store.path.write_bytes(store.path.read_bytes()[:-cut])
    again = store_of(tmp_path)
    assert texts(again) == {"a": "4"}
    again.add(sample("b", text="5"))  # begins a line of its own
    again.close()
    last = store_of(tmp_path)
    assert texts(last) == {"a": "4", "b": "5"}
    last.close()


@STORES
@pytest.mark.parametrize(
    "line", [b"\x00\x00\x00\n", b'{"problem_id": "a", "sam\n', b"[1]\n", b"{}\n", b'{"problem_id": "a"}\n']
)
def test_half_a_line_before_others_is_named(tmp_path: Path, store_of: Any, line: bytes) -> None:
    store = store_of(tmp_path)
    store.add(sample("a"))
    store.add(sample("b"))
    store.close()
    lines = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(b"".join([*lines[:-1], line, lines[-1]]))
    with pytest.raises(DataError) as caught:
        store_of(tmp_path)
    number = len(lines)
    assert str(caught.value) == f"{store.path}, line {number}: no sample: remove the line, and the sample is made again"
    store.path.write_bytes(b"".join(lines))
    store_of(tmp_path).close()  # the refused one has let go of the file


@STORES
def test_replies_wait_for_their_verdict(tmp_path: Path, store_of: Any) -> None:
    store = store_of(tmp_path)
    for name in "abc":
        store.reply({k: v for k, v in sample(name).items() if k != "verdict"})
    store.add(sample("a"))
    store.close()
    pending = store.path.with_suffix(".pending")
    pending.write_bytes(pending.read_bytes()[:-9])
    again = store_of(tmp_path)
    assert [key[0] for key in again.ungraded] == ["b"] and texts(again) == {"a": "4"}
    again.close()
    assert pending.exists()
    last = store_of(tmp_path)
    last.add(last.ungraded[next(iter(last.ungraded))])
    last.close()
    assert not pending.exists()


@STORES
def test_one_process_writes(tmp_path: Path, store_of: Any) -> None:
    store = store_of(tmp_path)
    with pytest.raises(ConfigError, match=r"another process is writing to .*jsonl: wait for it, or give another --out"):
        store_of(tmp_path)
    store.close()
    store_of(tmp_path).close()


def test_a_failure_never_counts(tmp_path: Path) -> None:
    agree(tmp_path, "gsm8k", {"model": {"served": "m"}})
    store = evaluation(tmp_path)
    store.add(sample("a"))
    store.add_failure(sample("a", text="", outcome=Outcome.INFRA_ERROR))
    store.add_failure(sample("b", text="", outcome=Outcome.INFRA_ERROR))
    store.close()
    # Of an earlier version, which took a server's failure for an empty answer.
    with store.path.open("a") as file:
        file.write(json.dumps(sample("c", text="", outcome=Outcome.WRONG) | {"finish": ""}) + "\n")
    assert [key[0] for key in read_samples(tmp_path, "gsm8k")] == ["a"]


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    distillation(tmp_path).close()
    with pytest.raises(ConfigError) as caught:
        distillation(tmp_path, temperature=1.0, seed=3)
    assert str(caught.value) == (
        f"{tmp_path}/sft.jsonl.samples.jsonl holds samples made with other settings "
        "(seed was None, is now 3; temperature was 0.6, is now 1.0): give the same options, or another --out"
    )
    agree(tmp_path, "gsm8k", {"seed": 1, "budgets": (1, 2)})
    agree(tmp_path, "gsm8k", {"seed": 1, "budgets": (1, 2)})
    with pytest.raises(ConfigError, match=r"gsm8k in .* \(seed was 1, is now 2\)"):
        agree(tmp_path, "gsm8k", {"seed": 2, "budgets": [1, 2]})


def test_a_distillation_store_without_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sft.jsonl.samples.jsonl").write_text(json.dumps(sample("a")) + "\n")
    with pytest.raises(DataError, match="line 1: no settings: give another --out, or remove the file"):
        distillation(tmp_path)


# -- rollouts --------------------------------------------------------------------------------------


def rollout(**fields: Any) -> Rollout:
    verdicts = [Verdict(Outcome.CORRECT, "equal", "math")]
    return Rollout(
        "p", "math", 0, [1], [5, 6], [1, 1], [-0.1, -0.2], [0, 0], StopReason.END, text="4", verdicts=verdicts, **fields
    )


def test_a_rollout_holds_its_prompt_and_what_was_expected(tmp_path: Path) -> None:
    store, written = RolloutStore(tmp_path), rollout(prompt="<|im_start|>2 + 2?", expected="4")
    store.write(0, [written])
    row = json.loads(store.path(0).read_text())
    assert (row["prompt"], row["expected"]) == ("<|im_start|>2 + 2?", "4")
    assert store.read(0) == [written]


def test_rollouts_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    row = rollout(prompt="x", expected="4").to_dict()
    del row["prompt"], row["expected"]
    store.path(0).write_text(json.dumps(row) + "\n")
    assert store.read(0) == [rollout()]


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ({"gold": "42", "form": "bare"}, "42"),
        ({"rules": [{"id": "no_comma"}]}, {"rules": [{"id": "no_comma"}]}),
        ({}, None),
        ({"tests": "x" * 5000}, '{"tests": "' + "x" * 3989 + " [5,013 characters]"),
        ({"names": frozenset({"a"}), "pair": (1, 2)}, {"names": "frozenset({'a'})", "pair": [1, 2]}),
    ],
)
def test_what_is_expected_of_a_problem(truth: dict[str, Any], expected: Any) -> None:
    assert Problem("p", "math", (Message("user", "?"),), truth, "c").expected == expected


# -- a full disk -----------------------------------------------------------------------------------


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@STORES
def test_a_full_disk_leaves_whole_lines(tmp_path: Path, store_of: Any) -> None:
    store = store_of(tmp_path)
    store.add(sample("a"))
    before = store.path.read_bytes()
    with (
        files_up_to(len(before) + 50),
        pytest.raises(CapacityError, match=r"jsonl cannot be written \(File too large\)"),
    ):
        store.add(sample("b"))
    assert store.path.read_bytes() == before and texts(store) == {"a": "4"}
    store.add(sample("c"))  # room was made, and the same process writes on
    store.close()
    again = store_of(tmp_path)
    assert texts(again) == {"a": "4", "c": "4"}
    again.close()


def test_a_full_disk_leaves_no_step_of_rollouts(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    with files_up_to(100), pytest.raises(OSError, match="File too large"):
        store.write(0, [rollout(), rollout()])
    assert list(tmp_path.iterdir()) == [] and store.read(0) is None
    store.write(0, [rollout()])
    assert store.read(0) == [rollout()]


def test_half_a_step_of_rollouts_is_named(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(0, [rollout(), rollout()])
    data = store.path(0).read_bytes()
    store.path(0).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="holds a group of 1 rollouts, 2 were sampled|line 2: damaged"):
        store.read(0, 2)
