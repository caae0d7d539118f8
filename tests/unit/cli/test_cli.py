"""The command line as a user meets it: one-line errors, exit status, what goes to which stream."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load_script

from qwq.cli import commands as cli
from qwq.errors import Interrupted, ModelError
from qwq.pipeline.plan.machine import Machine
from qwq.pipeline.resolve import model_folder

ROOT = Path(__file__).resolve().parents[3]
TINY = str(ROOT / "recipes" / "tiny.toml")


@pytest.fixture
def call(capsys):
    """Run `qwq ARGS` in this process: (status, standard output, standard error)."""

    def run(*argv: str) -> tuple[int, str, str]:
        status = cli.main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def one_line_error(result: tuple[int, str, str], status: int = 2) -> str:
    code, _, err = result
    assert code == status, result
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


# -- wrong usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["verify", "mth"], 'Did you mean "math"?'),
        (["train", TINY, "--untill", "sft"], "Did you mean --until?"),
        (["train"], "--recipe requires an argument"),
        (["train", TINY, "--seed", "x"], "--seed"),
        (["train", TINY, "--stages.rl1.steps"], "--stages.rl1.steps has no value: write --stages.rl1.steps=VALUE"),
        (["train", TINY, "--stages.rl1.step=3"], "unknown key 'stages.rl1.step': did you mean 'steps'?"),
        (["train", TINY, "--stages.rl1.step", "3"], "unknown key 'stages.rl1.step': did you mean 'steps'?"),
        (["explain", TINY, "--evall.math=3"], "did you mean 'eval'?"),
        (["train", str(ROOT / "recipes" / "tyny.toml")], "tiny.toml"),
        (["train", TINY, "--until", "rl3"], "did you mean 'rl2'?"),
        (["train", TINY, "--name=../x", "--dry-run"], "name"),
        (["report", str(ROOT / "docs")], "it has no recipe.toml"),
        (["chat", "/nonexistent/model"], "no model folder at /nonexistent/model"),
        (["eval", "/nonexistent/model", "maths"], "did you mean 'math'?"),
        (["agent", "run", "m", "-x?"], "if that is the task, write it last and behind two hyphens: -- '-x?'"),
        (["agent", "run", "m", "--tool", "sql", "What?"], "Did you mean --tools?"),
        # Texts that begin with a hyphen are texts: the model is what is missing.
        (["agent", "run", "/nonexistent/model", "-5 + 3?"], "no model folder at /nonexistent/model"),
        (["agent", "run", "/nonexistent/model", "--", "-5"], "no model folder at /nonexistent/model"),
        (["chat", "/nonexistent/model", "--prompt", "-5?"], "no model folder at /nonexistent/model"),
        (["chat", "/nonexistent/model", "--system", "- be brief"], "no model folder at /nonexistent/model"),
        (["agent", "resume", "/nonexistent/run", "--deny", "call-1", "--reason", "-1 left"], "/nonexistent/run"),
        (["look", "/nonexistent/run", "--text", "-5"], "/nonexistent/run"),
    ],
)
def test_wrong_usage_is_told_in_one_line_with_the_repair(call, argv, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hint in one_line_error(call(*argv))
    assert list(tmp_path.iterdir()) == []


GOOD_LINES = [
    (["verify", "math"], {"gold": "4", "pred": "\\boxed{4}"}),
    (
        ["verify", "instructions"],
        {"response": "a b", "rules": [{"id": "num_words", "n": 2, "relation": "exactly"}]},
    ),
    (
        ["verify", "instructions"],
        {"response": "a b", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    ),
    (["verify", "tools"], {"response": "no call", "truth": {"gold": "4"}}),
    (["verify", "code"], {"code": "print(4)", "tests": {"kind": "stdio", "cases": [{"input": "", "output": "4"}]}}),
]


@pytest.mark.parametrize(("command", "good"), [*GOOD_LINES, (["verify", "audit"], {"gold": ""})])
def test_a_malformed_json_line_ends_with_its_number_after_the_lines_before_it(call, tmp_path, command, good):
    file = tmp_path / "in.jsonl"
    file.write_text(f"{json.dumps(good)}\n{{bad\n{json.dumps(good)}\n")
    result = call(*command, file, *(["--strict"] if command[1] != "audit" else []))
    assert f"{file}, line 2: not JSON" in one_line_error(result)
    assert [json.loads(line)["index"] for line in result[1].splitlines()] == [0]


@pytest.mark.parametrize(("command", "good"), GOOD_LINES)
def test_a_line_that_cannot_be_graded_has_a_line_of_its_own_and_the_rest_go_on(call, tmp_path, command, good):
    """Not JSON, a list, a field missing: three lines with an error, and both good ones keep their
    verdict.
    """
    file = tmp_path / "in.jsonl"
    missing = {key: value for key, value in good.items() if key not in ("gold", "rules", "kwargs", "truth", "code")}
    file.write_text("\n".join([json.dumps(good), "{bad", "", "[1]", json.dumps(missing), json.dumps(good)]) + "\n")
    status, out, err = call(*command, file)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[0].keys() == rows[4].keys() and "error" not in rows[0]
    for row, number in zip(rows[1:4], (2, 4, 5), strict=True):
        assert (
            row["outcome"] is None and row["error"].startswith(f"{file}, line {number}: ") and "\n" not in row["error"]
        )
    assert "3 more could not be graded" in err


@pytest.mark.parametrize(("command", "good"), GOOD_LINES)
def test_a_file_of_which_no_line_can_be_graded_ends_with_status_2(call, tmp_path, command, good):
    """Each line still gets its own."""
    file = tmp_path / "in.jsonl"
    file.write_text('{bad\n{"unknown": 1}\n')
    status, out, err = call(*command, file)
    assert status == 2 and [json.loads(line)["index"] for line in out.splitlines()] == [0, 1]
    assert f"error: {file}: no line of 2 could be graded, the first: {file}, line 1: not JSON" in err.splitlines()[-1]


@pytest.mark.parametrize(("command", "good"), GOOD_LINES)
def test_lines_to_verify_come_from_standard_input(call, monkeypatch, command, good):
    data = f"{json.dumps(good)}\n{{bad\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    status, out, _ = call(*command, "-")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(rows) == 2 and rows[1]["error"].startswith("standard input, line 2: not JSON")


@pytest.mark.parametrize(
    ("command", "line", "words"),
    [
        ("math", {"gold": "4", "pred": "4", "forms": "bare"}, "unknown key 'forms': did you mean 'form'?"),
        ("code", {**GOOD_LINES[4][1], "timeout": 3}, "unknown key 'timeout': did you mean 'timeout_s'?"),
        ("code", {**GOOD_LINES[4][1], "foo": 1}, "unknown key 'foo': valid names: code, "),
        ("tools", {"response": "x", "truth": {"gold": "4"}, "call": []}, "unknown key 'call': did you mean 'calls'?"),
    ],
)
def test_a_misspelt_key_of_a_line_is_refused(call, tmp_path, command, line, words):
    file = tmp_path / "in.jsonl"
    file.write_text(
        json.dumps(line) + "\n" + json.dumps({**dict(GOOD_LINES[4][1]), "name": "x", "right": "correct"}) + "\n"
    )
    _, out, _ = call("verify", command, file)
    rows = [json.loads(row) for row in out.splitlines()]
    assert words in rows[0]["error"]
    assert command != "code" or rows[1]["outcome"] == "correct"  # what people note beside a row is no mistake


def test_an_empty_and_a_missing_file_are_told(call, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "is empty" in one_line_error(call("verify", "math", empty))
    assert "no file at" in one_line_error(call("verify", "tools", tmp_path / "absent.jsonl"))


# -- arguments -------------------------------------------------------------------------------------


def test_recipe_keys_are_told_from_options_in_both_forms():
    tokens = ["r.toml", "--a.b=3", "--until", "sft", "--c.d", "-1", "--name=x", "--dry-run", "--e.f=x=y"]
    rest, found = cli.split_overrides(tokens)
    assert rest == ["r.toml", "--until", "sft", "--dry-run"]
    assert found == {"a.b": "3", "c.d": "-1", "name": "x", "e.f": "x=y"}


def test_both_forms_reach_the_recipe_typed_and_in_any_place(call, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "qwq.pipeline.plan.explain.explain_with_cluster", lambda recipe, runs: seen.append((recipe, runs)) or "the plan"
    )
    status, out, _ = call("train", "--stages.rl1.steps=7", "--seed", "3", "--dry-run", TINY,
                          "--stages.rl1.optim.lr", "1e-4", "--runs", tmp_path / "r", "--name=other")  # fmt: skip
    assert (status, out) == (0, "the plan\n")
    recipe, runs = seen[0]
    assert (recipe.stages["rl1"].steps, recipe.stages["rl1"].optim.lr) == (7, 1e-4)
    assert (recipe.run_name, runs) == ("other-s3", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_dry_run_and_explain_print_the_same_plan_and_write_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The rates of a machine are measured each time, and differ a little.
    monkeypatch.setattr("qwq.pipeline.plan.explain.measure", lambda *_: Machine(1e11, 1e10, "of this test"))
    dry, plan = call("train", TINY, "--dry-run"), call("explain", TINY)
    assert dry[0] == plan[0] == 0
    # Free memory is read each time, and may differ.
    first, second = (re.sub(r"Free: [\d.]+", "", text).split() for text in (dry[1], plan[1]))
    assert first == second
    assert "rl1" in plan[1] and list(tmp_path.iterdir()) == []


def test_the_command_to_go_on_is_the_same_one_without_fresh():
    command = cli._go_on_command(
        Path("recipes/tiny.toml"), "rl1", 1, Path("runs"), {"stages.rl1.mix": {"math": 1.0}, "name": "a b"}
    )
    assert command == "qwq train recipes/tiny.toml '--stages.rl1.mix={\"math\": 1.0}' '--name=a b' --until rl1 --seed 1"
    assert cli._go_on_command(Path("r.toml"), None, None, Path("d"), {}) == "qwq train r.toml --runs d"


# -- errors of other kinds -------------------------------------------------------------------------


def test_interruptions_end_with_130_and_one_line(call, monkeypatch):
    for error, line in (
        (Interrupted("state saved: qwq train x"), "state saved: qwq train x\n"),
        (KeyboardInterrupt(), "stopped; the same command without --fresh resumes from the last checkpoint\n"),
    ):

        def fail(argv, error=error):
            raise error

        monkeypatch.setattr(cli, "run", fail)
        assert call("train", "x") == (130, "", line)


def test_what_the_system_says_of_a_place_is_one_line(call, monkeypatch):
    for error, line in (
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/out.jsonl"),
            "error: /x/out.jsonl: Permission denied\n",
        ),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x/file/out"), "error: /x/file/out: Not a directory\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device\n"),
    ):

        def fail(argv, error=error):
            raise error

        monkeypatch.setattr(cli, "run", fail)
        assert call("data", "x") == (2, "", line)

    def lost(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/part of qwq")

    monkeypatch.setattr(cli, "run", lost)
    with pytest.raises(FileNotFoundError):
        cli.main(["env"])


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(argv):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["env"])


def test_help_needs_neither_torch_nor_time():
    code = (
        "import sys; from qwq.cli import main\n"
        "for words in (['--help'], ['train', '--help'], ['verify', '--help']): assert main(words) == 0\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True, text=True)
    assert "Usage: qwq train" in done.stdout


def test_the_command_reference_is_what_the_help_says():
    docs = load_script("tools/cli_docs.py")
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == docs.document(), "run python tools/cli_docs.py"
    assert ["verify", "audit"] in docs.commands() and ["sandbox", "run"] in docs.commands()


# -- JSON lines and the sandbox --------------------------------------------------------------------


def test_verdicts_go_to_standard_output_in_order_and_the_summary_to_standard_error(call, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps({"gold": "4", "pred": f"\\boxed{{{n}}}"}) + "\n" for n in (4, 5, 4)))
    status, out, err = call("verify", "math", file)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [(r["index"], r["outcome"]) for r in rows] == [(0, "correct"), (1, "wrong"), (2, "correct")]
    assert "3 lines: 2 correct, 1 wrong" in err


def test_audit_writes_the_gradable_rows(call, tmp_path):
    file, clean = tmp_path / "set.jsonl", tmp_path / "clean.jsonl"
    file.write_text('{"answer": "12"}\n{"answer": ""}\n')
    status, out, err = call("verify", "audit", file, "--clean", clean)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [(r["index"], r["gradable"], r["kind"]) for r in rows] == [
        (0, True, "gradable"),
        (1, False, "empty"),
    ]
    assert "2 rows: 1 empty, 1 gradable" in err
    assert clean.read_text() == '{"answer": "12"}\n'
    assert "no column 'gold'" in one_line_error(call("verify", "audit", file, "--field", "gold"))


def test_a_missing_program_is_told(call, tmp_path):
    assert "no file" in one_line_error(call("sandbox", "run", tmp_path / "absent.py"))


def test_env_names_what_a_bug_report_needs(call, monkeypatch):
    monkeypatch.setattr("qwq.sandbox.doctor.doctor", lambda: {"level": None, "advice": "use Linux"})
    status, out, _ = call("env")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0 and facts["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {"torch", "cores", "memory", "cuda"} <= set(facts) and facts["sandbox"] == "no safe level here: use Linux"


# -- models ----------------------------------------------------------------------------------------


def test_a_run_s_folder_means_its_last_finished_policy(tmp_path):
    run = tmp_path / "tiny"
    (run / "stages").mkdir(parents=True)
    kinds = {"sft": "sft", "rl1": "rl1", "reward_model": "reward_model", "rl2": "rl2"}
    (run / "recipe.toml").write_text("\n".join(f'[stages.{n}]\nkind = "{k}"' for n, k in kinds.items()))
    with pytest.raises(ModelError, match="has no finished stage yet"):
        model_folder(str(run))
    for name in ("sft", "rl1", "reward_model"):
        (run / "checkpoints" / name / "final").mkdir(parents=True)
        (run / "stages" / f"{name}.json").write_text(json.dumps({"name": name}))
    (run / "checkpoints" / "rl2" / "final").mkdir(parents=True)  # written, but the stage's record is not: not finished
    assert model_folder(str(run)) == str(run / "checkpoints" / "rl1" / "final")
    assert model_folder("org/name") == "org/name"
