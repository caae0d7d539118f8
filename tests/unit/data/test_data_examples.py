"""Files of rows as training examples: every row is used, or counted with its reason, or stops the
run with its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from qwq.cli import main
from qwq.data.examples import conversation_examples, pair_splits
from qwq.errors import DataError, UsageError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model
from qwq.pipeline.preview import preview_file
from qwq.pipeline.stages.reward_model import RewardModelStage
from qwq.pipeline.stages.sft import SftStage
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(train_bpe(["What is 2 + 2? It is 4. one two"] * 3, 300), default_template())


@pytest.fixture(scope="module")
def model(chat: ChatFormat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = preset(
        "tiny", vocab_size=chat.tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=2,
        num_kv_heads=1, head_dim=16, eos_token_id=chat.eos_ids[0], pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    save_model(Transformer(config), folder)
    chat.save(folder)
    return folder


def said(question: object, answer: object, **more: object) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


BASE = [said(f"What is {i} plus {i}?", f"<think>\n{i} + {i} = {2 * i}\n</think>\n{2 * i}") for i in range(1, 9)]
LINES = "".join(json.dumps(row) + "\n" for row in BASE).encode()


def line(row: object) -> bytes:
    return LINES + json.dumps(row, ensure_ascii=False).encode() + b"\n"


# One small file of each kind that was tried: how many rows it gives, or what the one line says.
FILES: dict[str, tuple[bytes, int | str]] = {
    "good": (LINES, 8),
    "a byte order mark": (b"\xef\xbb\xbf" + LINES, 8),
    "CRLF": (LINES.replace(b"\n", b"\r\n"), 8),
    "empty lines": (b"\n\n" + LINES.replace(b"\n", b"\n\n") + b"   \n", 8),
    "no line feed at the end": (LINES.rstrip(), 8),
    "U+2028 in a text": (line(said("Say two lines.", "one\u2028two")), 9),
    "U+0085 and separators in a text": (line(said("Say two lines.", "one\x85two\u2029three")), 9),
    "an array": (json.dumps(BASE).encode(), 8),
    "an array over several lines": (json.dumps(BASE, indent=1).encode(), 8),
    "rows twice": (LINES + LINES, 16),
    "NUL in a text": (line(said("q\x00", "a\x00b")), 9),
    "NaN beside the messages": (
        LINES + b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"score":NaN}\n',
        9,
    ),
    "special tokens spelled out": (line(said("what is <|im_end|>?", "a token <|im_end|>\n<|im_start|>user\nhi")), 9),
    "content parts": (line(said([{"type": "text", "text": "q"}], [{"type": "text", "text": "2"}])), 9),
    "null tools": (line(BASE[0] | {"tools": None}), 9),
    "tools as text": (line(BASE[0] | {"tools": '[{"type":"function","function":{"name":"f"}}]'}), 9),
    "the assistant first": (line({"messages": [{"role": "assistant", "content": "hello"}, *BASE[0]["messages"]]}), 9),
    "the user last": (line({"messages": [*BASE[0]["messages"], {"role": "user", "content": "bye"}]}), 9),
    "a system turn in the middle": (
        line({"messages": [*BASE[0]["messages"], {"role": "system", "content": "be brief"}, *BASE[1]["messages"]]}),
        9,
    ),
    "ShareGPT's names of roles": (
        line({"messages": [{"role": "human", "content": "q"}, {"role": "gpt", "content": "a"}]}),
        9,
    ),
    "latin-1": (
        LINES + json.dumps(said("café?", "yes"), ensure_ascii=False).encode("latin-1") + b"\n",
        "data.jsonl, line 9: not UTF-8 (byte 0xe9",
    ),
    "UTF-16": (LINES.decode().encode("utf-16"), "is UTF-16"),
    "half a surrogate pair": (
        LINES + b'{"messages":[{"role":"user","content":"q \\ud83d"},{"role":"assistant","content":"a"}]}\n',
        "line 9: holds ",
    ),
    "5,000 brackets": (LINES + b"[" * 5000 + b"]" * 5000 + b"\n", "line 9: nested too deep"),
    "a cut line": (LINES + b'{"messages": [{"role": "us\n', "line 9: not JSON ("),
    "a list as a row": (LINES + b"[1, 2]\n", "line 9: "),
    "empty messages": (line({"messages": []}), "line 9: messages is an empty list"),
    "null content": (line(said("q", None)), "line 9: messages[1] (assistant) has neither content nor tool calls"),
    "a number as content": (line(said("q", 42)), "line 9: messages[1].content is a number"),
    "no role": (
        line({"messages": [{"content": "q"}, {"role": "assistant", "content": "a"}]}),
        "line 9: messages[0] has no `role`",
    ),
    "an empty file": (b"", "is empty"),
    "a broken array": (json.dumps(BASE, indent=1).encode()[:-20], "begins as one JSON array, and is none"),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\x00" * 20, "gzip"),
    "a broken parquet file": (b"PAR1 \xff\xff\xff\x81PAR1", "parquet"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads_or_gets_one_true_line(chat: ChatFormat, tmp_path: Path, name: str) -> None:
    content, expected = FILES[name]
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    if isinstance(expected, int):
        examples, use = conversation_examples(chat, str(path), max_tokens=1024)
        assert len(examples) == use.used == use.rows == expected
        return
    with pytest.raises(DataError) as error:
        conversation_examples(chat, str(path), max_tokens=1024)
    assert expected in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def many(path: Path, num: int) -> Path:
    return write(path, *(said(f"{i}?", str(i)) for i in range(num)))


def stage(path: Path, **options: object) -> SftStage:
    return SftStage.model_validate({"kind": "sft", "path": str(path), **options})


def test_with_a_path_all_rows_are_taken_and_a_limit_is_said(chat: ChatFormat, tmp_path: Path) -> None:
    path = many(tmp_path / "many.jsonl", 1200)
    made = stage(path).make_documents(chat, "sft", 0)
    assert made.use and len(made.documents) == made.use.used == 1200  # 1,000 before, without a word
    assert "all 1,200 rows; shape messages" in made.use.note()
    made = stage(path, documents=1000).make_documents(chat, "sft", 0)
    assert made.use and len(made.documents) == 1000
    assert "1,000 of 1,200 rows, left out: 200 beyond documents = 1,000 (the first are taken)" in made.use.note()
    assert made.use.to_dict() | {"note": ""} == {
        "path": str(path), "rows": 1200, "used": 1000, "shapes": {"messages": 1000},
        "tokens": sum(len(d[0]) for d in made.documents),
        "learnt_tokens": sum(map(sum, (d[1] for d in made.documents))),
        "longest": max(len(d[0]) for d in made.documents), "beyond_limit": 200, "note": "",
    }  # fmt: skip


def test_defaults_without_a_path_are_as_they_were() -> None:
    sft = SftStage.model_validate({"kind": "sft", "mix": {"math": 1.0}})
    reward = RewardModelStage.model_validate({"kind": "reward_model"})
    assert (sft.documents, reward.pairs, reward.test_pairs) == (1000, 2000, 500)
    assert stage(Path("x.jsonl")).documents is None
    assert RewardModelStage.model_validate({"kind": "reward_model", "path": "x.jsonl", "pairs": 7}).pairs == 7


def test_documents_beyond_the_models_positions_are_left_out_and_said(chat: ChatFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", BASE[0], said("q", "two " * 200))
    made = stage(path).make_documents(chat, "sft", 0, max_positions=128)  # max_tokens is 8,192
    assert made.use and len(made.documents) == 1
    assert f"1 of 2 rows, left out: 1 over 128 tokens, the model's positions (first: {path}, line 2)" in made.use.note()
    with pytest.raises(
        DataError, match="no conversation of at most 20 tokens: give shorter ones, or take a model with more positions"
    ):
        stage(path).make_documents(chat, "sft", 0, max_positions=20)
    with pytest.raises(UsageError, match="demonstrations are longer than the model's 20 positions"):
        SftStage.model_validate({"kind": "sft", "documents": 3, "mix": {"math": 1.0}}).make_documents(
            chat, "sft", 0, max_positions=20
        )


# -- pairs -----------------------------------------------------------------------------------------


def pairs(num: int, make: Callable[[int], dict] | None = None) -> list[dict]:
    return [(make or (lambda i: {"prompt": f"q{i}", "chosen": "one", "rejected": "two"}))(i) for i in range(num)]


def test_all_pairs_of_a_file_are_used_by_default(chat: ChatFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *pairs(3000))
    splits, use = pair_splits(chat, str(path), max_tokens=4096)
    assert {k: len(v) for k, v in splits.items()} == {
        "train": 2100,
        "validation": 300,
        "test": 600,
    } and use.used == 3000  # 2,000 and 500 before
    splits, use = pair_splits(chat, str(path), pairs=2000, test_pairs=500, max_tokens=4096)
    assert (
        "2,800 of 3,000 rows, left out: 200 beyond pairs = 2,000 of 2,100, test_pairs = 500 of 600 (the first are "
        "taken)" in use.note()
    )


def test_equal_answers_are_counted_and_left_out(chat: ChatFormat, tmp_path: Path) -> None:
    rows = pairs(20)
    path = write(tmp_path / "p.jsonl", *rows, {"prompt": "same", "chosen": "one", "rejected": "one"})
    splits, use = pair_splits(chat, str(path), max_tokens=4096)
    assert (
        sum(map(len, splits.values())) == 20
        and f"20 of 21 rows, left out: 1 with equal answers (first: {path}, line 21)" in use.note()
    )
    write(path, *pairs(20, lambda i: {"prompt": f"q{i}", "chosen": "one", "rejected": "one"}))
    with pytest.raises(DataError, match=r"pairs of 0 prompts .* \(20 rows, 20 with equal answers\)"):
        pair_splits(chat, str(path), max_tokens=4096)


def test_pairs_beyond_the_models_positions_are_left_out_and_null_is_refused(chat: ChatFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *pairs(20), {"prompt": "q", "chosen": "two " * 100, "rejected": "one"})
    _, use = pair_splits(chat, str(path), max_tokens=4096, max_positions=64)
    assert "left out: 1 over 64 tokens, the model's positions" in use.note()
    write(path, *pairs(20), {"prompt": "q", "chosen": None, "rejected": "b"})
    with pytest.raises(DataError, match="p.jsonl, line 21: chosen is null"):
        pair_splits(chat, str(path), max_tokens=4096)


def test_trls_pairs_have_the_tokens_of_plain_ones(chat: ChatFormat, tmp_path: Path) -> None:
    plain, _ = pair_splits(chat, str(write(tmp_path / "a.jsonl", *pairs(12))), max_tokens=99)
    turn = lambda role, text: {"role": role, "content": text}
    trl = pairs(
        12,
        lambda i: {
            "prompt": [turn("user", f"q{i}")],
            "chosen": [turn("assistant", "one")],
            "rejected": [turn("assistant", "two")],
        },
    )
    implicit = pairs(
        12,
        lambda i: {
            k: [turn("user", f"q{i}"), turn("assistant", a)] for k, a in (("chosen", "one"), ("rejected", "two"))
        },
    )
    for rows in (trl, implicit):
        made, _ = pair_splits(chat, str(write(tmp_path / "b.jsonl", *rows)), max_tokens=99)
        for split, found in made.items():
            assert [(p.chosen, p.rejected, p.chosen_length, p.rejected_length) for p in found] == [
                (p.chosen, p.rejected, p.chosen_length, p.rejected_length) for p in plain[split]
            ]


# -- parquet and folders ---------------------------------------------------------------------------


def test_parquet_is_read_as_json_lines_are(chat: ChatFormat, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "1"},
                {"role": "assistant", "content": "1"},
            ],
            "tools": json.dumps([{"name": "add"}]),
        },
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 1}],
            "tools": None,
        },
        {
            "messages": [
                {"role": "user", "content": "q"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "mul", "arguments": {"b": 1}}}],
                },
            ],
            "tools": None,
        },
    ]
    lines = write(tmp_path / "a.jsonl", *rows)
    table = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.Table.from_pylist(rows), table
    )  # every struct gets the keys of all, null where a row has none
    expected, _ = conversation_examples(chat, str(lines), max_tokens=999)
    found, use = conversation_examples(chat, str(table), max_tokens=999)
    assert (
        [(e.ids, e.weights) for e in found] == [(e.ids, e.weights) for e in expected]
        and found[1].where == f"{table}, row 2"
        and use.rows == 3
    )
    table.write_bytes(b"PAR1 \xff\xff\xff\x81PAR1")
    with pytest.raises(DataError, match="a.parquet cannot be read as parquet") as error:
        conversation_examples(chat, str(table), max_tokens=999)
    assert "\n" not in str(error.value)


def test_a_folder_is_read_by_its_training_file(chat: ChatFormat, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *BASE)
    write(tmp_path / "test.jsonl", BASE[0])
    assert conversation_examples(chat, str(tmp_path), max_tokens=999)[1].used == 8


# -- qwq data show, and the preview of a stage -----------------------------------------------------


def test_show_marks_what_is_learnt_and_counts_every_row(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        said("hi", "ho"),
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "BAD", "weight": 0},
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "GOOD"},
            ]
        },
    ]
    path = write(tmp_path / "a.jsonl", *rows, said("long", "two " * 1200))
    assert main(["data", "show", str(path), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n[[\n</think>\nho<|im_end|>]]" in out
    assert "BAD<|im_end|>" in out and "[[\n</think>\nBAD" not in out and "GOOD<|im_end|>]]" in out
    assert "2 of 3 rows, left out: 1 over 1,024 tokens, the model's positions" in out and "shape messages" in out
    with path.open("a") as file:
        file.write("{\n")
    assert main(["data", "show", str(path), "--model", str(model), "--rows", "1", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["used"], len(found["shown"])) == (4, 2, 1) and "line 4: not JSON" in found["refused"][
        0
    ]


def test_a_refused_row_is_counted_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a row that the template cannot write, one without a shape, a good one and a line that is
    no JSON.
    """
    unfit = {"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "q"}]}
    path = write(tmp_path / "a.jsonl", unfit, {}, said("q", "a"))
    with path.open("a") as file:
        file.write("{\n")
    assert main(["data", "show", str(path), "--model", str(model), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["used"], len(found["refused"])) == (4, 1, 3)
    assert [re.search(r"line (\d)", text)[1] for text in found["refused"]] == ["1", "2", "4"]


def test_questions_with_answers_are_said_to_be_problems_too(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "What is 2+3?", "answer": "5"})
    command = ["data", "show", str(path), "--model", str(model)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-2].startswith("sft: ")
        and lines[-1] == "problems of kind math too: --stage rl shows them as RL reads them"
    )
    assert main([*command, "--stage", "rl"]) == 0
    assert "right answer '5'" in capsys.readouterr().out
    assert main([*command, "--stage", "sft"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("sft: ")


def test_show_reads_pairs_and_problems(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "p.jsonl", *pairs(12))
    assert main(["data", "show", str(path), "--model", str(model), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert (
        f"{path}, line 1, chosen" in out
        and "one<|im_end|>]]" in out
        and "two<|im_end|>]]" in out
        and "9 train, 1 validation, 2 test pairs" in out
    )
    write(path, {"problem": "What is 2+3?", "answer": "5"})
    assert main(["data", "show", str(path), "--model", str(model)]) == 0
    out = capsys.readouterr().out
    assert (
        "right answer '5'" in out
        and "What is 2+3?" in out
        and "[[" not in out
        and out.splitlines()[-1].startswith("rl: ")
    )
    assert main(["data", "show", str(path), "--model", str(model), "--stage", "sft"]) == 2
    assert "refused: " in capsys.readouterr().out


def test_a_row_does_not_steer_the_terminal(chat: ChatFormat, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", said("q\x1b[2J", "a"))
    (row,) = preview_file(str(path), chat).rows
    assert "\x1b" not in row.text() and "q\\x1b[2J" in row.text()
    assert row.text(colour=True).count("\033[32m") == 1


def test_the_preview_of_a_stage_counts_what_training_counts(chat: ChatFormat, tmp_path: Path) -> None:
    path = many(tmp_path / "many.jsonl", 30)
    (summary,) = stage(path, documents=20).preview(chat, max_positions=1024)
    made = stage(path, documents=20).make_documents(chat, "sft", 0, max_positions=1024)
    assert made.use and summary.use.to_dict() == made.use.to_dict() and summary.rows[0].where == f"{path}, line 1"
    assert SftStage.model_validate({"kind": "sft", "mix": {"math": 1.0}}).preview(chat) == []
    write(path, said("q", None))
    with pytest.raises(DataError, match="line 1: .* nothing to learn"):
        stage(path).preview(chat)


def test_a_run_says_and_keeps_what_it_took(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = many(tmp_path / "many.jsonl", 60)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'name = "r"\nmodel.path = "{model}"\ncompute.threads = 1\n[stages.sft]\nkind = "sft"\npath = "{path}"\n'
        "documents = 40\nbatch_tokens = 1000\n"
    )
    assert main(["train", str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    note = "40 of 60 rows, left out: 20 beyond documents = 40 (the first are taken)"
    assert f"sft: {path}: {note}" in capsys.readouterr().err
    (entry,) = json.loads((tmp_path / "runs/r/results.json").read_text())["stages"][0]["data"]
    assert (entry["rows"], entry["used"], entry["beyond_limit"]) == (60, 40, 20) and note in entry["note"]


def test_a_run_on_own_problems_says_what_it_took(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    math = write(tmp_path / "math.jsonl", *({"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(40)))
    code = write(tmp_path / "code.jsonl", {"prompt": "Write add(a,b)", "tests": ["assert add(1,2)==3"]})
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'name = "r"\nmodel.path = "{model}"\ncompute.threads = 1\n[stages.rl]\nkind = "rl1"\nsteps = 1\n'
        f'prompts = 3\nsamples = 2\nmax_new_tokens = 4\nsources = [{{ kind = "math", path = "{math}", limit = 30 '
        f'}}, {{ kind = "code", path = "{code}" }}]\n'
    )
    assert main(["train", str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    err = capsys.readouterr().err
    assert (
        f"rl: {math}: 30 of 40 rows, left out: " in err
        and "beyond limit = 30" in err
        and f"rl: {code}: the one row; shape code" in err
    )
    data = json.loads((tmp_path / "runs/r/results.json").read_text())["stages"][0]["data"]
    assert [(d["rows"], d["used"]) for d in data] == [(40, 30), (1, 1)]
    assert data[0]["beyond_limit"] + data[0].get("left_out", {}).get("held back for validation", 0) == 10


def test_a_hub_data_set_is_an_sft_path(chat: ChatFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def listed(self: object, name: str, **options: object) -> list[str]:
        return ["README.md", "data/train.jsonl", "data/test.jsonl"]

    def download(name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns, repo_type))
        (tmp_path / "data").mkdir(exist_ok=True)
        write(tmp_path / "data" / "train.jsonl", *BASE)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    made = stage(Path("org/chats")).make_documents(chat, "sft", 0)
    assert len(made.documents) == 8 and asked == [("org/chats", ["data/train.jsonl"], "dataset")]


def test_what_convert_writes_is_read_with_u2028_in_it(chat: ChatFormat, tmp_path: Path) -> None:
    source = write(
        tmp_path / "marco.jsonl",
        {"instruction": "Say 0", "response": "<Thought>one\u2028two</Thought> <Output>0\x85</Output>"},
    )
    assert main(["data", "convert", str(source), "--format", "marco-o1", "--out", str(tmp_path / "out.jsonl")]) == 0
    (example,), _ = conversation_examples(chat, str(tmp_path / "out.jsonl"), max_tokens=999)
    assert "one\u2028two" in chat.tokenizer.decode(example.ids)
