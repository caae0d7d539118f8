"""`qwq serve --record` as a process: killed, started again into the same folder, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from little import Served, make_model

from qwq.cli import main
from qwq.rollout.call_log import CALLS, read_calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_model(tmp_path_factory.mktemp("served") / "little")
    (made / "generation_config.json").write_text(json.dumps({"top_p": 0.8, "temperature": 0.6}))
    return made


def ask(served: Served, episode: str) -> None:
    body = {"messages": [{"role": "user", "content": "what is 3 and 4?"}], "max_tokens": 8}
    assert served.post(f"/episodes/{episode}/v1/chat/completions", **body).status_code == 200


def test_calls_survive_a_kill_and_a_restart(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "calls"
    first = Served(folder, "--record", str(out))
    said = "".join(first.said)
    assert "(top_p 0.8) cannot be trained on: --plain-sampling" in said and f"recording into {out / CALLS}" in said
    ask(first, "a")
    assert main(["serve", str(folder), "--port", "0", "--record", str(out)]) == 2
    assert f"another server records into {out}: stop it, or give another --record" in capsys.readouterr().err
    first.kill()
    with (out / CALLS).open("ab") as file:
        file.write(b'{"number": 7, "prompt')

    second = Served(folder, "--record", str(out), "--plain-sampling")
    assert "cannot be trained on" not in "".join(second.said)
    ask(second, "a")
    ask(second, "b")
    assert second.stop() == 0
    calls = read_calls(out)
    assert [(c.episode, c.number) for c in calls] == [("a", 0), ("a", 0), ("b", 1)]
    assert [c.samples[0].untrainable for c in calls] == [["top_p 0.8"], [], []]
    assert main(["data", "episodes", str(out)]) == 0
    read = capsys.readouterr()
    lines = [json.loads(line) for line in read.out.splitlines()]
    assert [(e["episode"], e["calls"], e["untrainable"]) for e in lines] == [("a", 2, {"top_p 0.8": 1}), ("b", 1, {})]
    assert lines[0]["sampled_tokens"] == sum(sum(s["sampled_mask"]) for s in lines[0]["segments"])
    assert "2 episodes, 3 calls" in read.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve MODEL --port 0 --record FOLDER/file/x", "give another folder with --record"),
        ("serve a=MODEL b=MODEL --port 0 --record FOLDER/x", "--record serves one model, 2 are given"),
        ("data episodes FOLDER", "no calls.jsonl in"),
    ],
)
def test_what_cannot_be_recorded_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    (tmp_path / "file").write_text("")
    filled = words.replace("MODEL", str(folder)).replace("FOLDER", str(tmp_path))
    assert main(filled.split()) == 2
    assert said in capsys.readouterr().err
