"""`qwq reward score` and the reward-model stage on a file of pairs: from a checkpoint to held-out
accuracy and scores of lines.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from qwq.cli import main
from qwq.errors import DataError
from qwq.model.config import ModelConfig
from qwq.model.transformer import Transformer
from qwq.model.weights import save_model, save_reward_model
from qwq.pipeline.stages.reward_model import RewardModelStage, matched_length
from qwq.reward.model import CALIBRATION, Calibration, RewardModel
from qwq.reward.score import Judge, score_file
from qwq.text.template import ChatFormat, ChatTemplate
from qwq.text.tokenizer import train_bpe
from qwq.types import Message

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parts() -> tuple[ChatFormat, Transformer]:
    chat = ChatFormat(train_bpe(["good answer bad answer question number one two three"] * 3, 300), ChatTemplate(PLAIN))
    config = ModelConfig(
        family="qwen2", vocab_size=chat.tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_layers=1,
        num_heads=2, num_kv_heads=1, head_dim=16, tie_embeddings=True, max_positions=512, eos_token_id=chat.eos_ids[0],
    )  # fmt: skip
    return chat, Transformer(config).init_weights(torch.Generator().manual_seed(0))


def pairs_file(path: Path, num: int = 60) -> Path:
    rng = random.Random(0)
    rows = [
        {
            "prompt": f"question {i}",
            "chosen": "good answer" + " one" * rng.randint(0, 3),
            "rejected": "bad answer" + " one" * rng.randint(0, 3),
        }
        for i in range(num)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def reward_dir(folder: Path, parts, calibration: Calibration | None = None) -> Path:
    chat, model = parts
    score = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    save_reward_model(model, score, folder)
    chat.save(folder)
    if calibration:
        (folder / CALIBRATION).write_text(json.dumps(calibration.to_dict()))
    return folder


def test_scores_are_the_models_own_and_calibrated(tmp_path, parts, capsys) -> None:
    chat, model = parts
    calibration = Calibration(0.5, 2.0, 0.1, 4.0)
    folder, file = reward_dir(tmp_path / "rm", parts, calibration), tmp_path / "a.jsonl"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "good answer"}]
    rows = [
        {"prompt": "question", "response": "good answer"}, {"messages": messages},
        {"prompt": messages[:1], "response": messages[1]},
        {"prompt": "question", "chosen": "good answer", "rejected": "bad answer"},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(r) + "\n\n" for r in rows))
    assert main(["reward", "score", str(file), "--model", str(folder)]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(x) for x in out.splitlines()]
    ids, _ = chat.training_example([Message("user", "question"), Message("assistant", "good answer")])
    ids = ids[: len(ids) - ids[::-1].index(chat.eos_ids[0])]
    judge = Judge.from_folder(folder)
    (raw,) = RewardModel(model, judge.model.score.weight).raw_scores([ids])
    tokens = len(ids) - len(chat.prompt_ids([Message("user", "question")]))
    assert lines[0] == {
        "index": 0,
        "score": pytest.approx((raw + 0.1 * (tokens - 4) - 0.5) / 2, abs=1e-5),
        "raw": pytest.approx(raw, abs=1e-5),
        "tokens": tokens,
    }
    assert [x["index"] for x in lines] == [0, 1, 2, 3] and lines[1] | {"index": 0} == lines[0] == lines[2] | {
        "index": 0
    }
    assert lines[3]["chosen"] == lines[0]["score"] and lines[3]["prefers"] in ("chosen", "rejected")
    assert "4 lines, calibrated scores; the chosen answer is preferred in" in err
    (folder / CALIBRATION).unlink()
    assert next(score_file(Judge.from_folder(folder), file))["score"] == pytest.approx(raw, abs=1e-5)


def test_bad_lines_and_folders_are_one_line(tmp_path, parts) -> None:
    judge = Judge.from_folder(reward_dir(tmp_path / "rm", parts))
    file = tmp_path / "a.jsonl"
    for text, words in (
        ("{", "line 1: not JSON"),
        ('{"prompt": "a"}', "line 1: needs prompt and response"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "line 1: needs"),
    ):
        file.write_text(text + "\n")
        with pytest.raises(DataError, match=words):
            list(score_file(judge, file))
    (tmp_path / "rm" / CALIBRATION).write_text("{}")
    with pytest.raises(DataError, match="holds no calibration"):
        Judge.from_folder(tmp_path / "rm")
    assert main(["reward", "score", str(file), "--model", str(tmp_path / "nothing")]) == 2


def stage(path: Path, **kw) -> RewardModelStage:
    return RewardModelStage.model_validate(
        {"kind": "reward_model", "path": str(path), "pairs": 100, "batch_pairs": 8, **kw}
    )


def test_a_few_training_pairs_have_few_for_the_calibration(parts) -> None:
    """300 were scored whatever was trained on: minutes of a CPU for a large model."""
    chat, _ = parts

    def num(**keys: int) -> int | None:
        return RewardModelStage.model_validate({"kind": "reward_model", **keys}).num_validation

    assert [num(pairs=n) for n in (10, 500, 1500, 5000)] == [50, 100, 300, 300] and num() == 300
    assert num(pairs=500, validation_pairs=7) == 7
    few = RewardModelStage.model_validate({"kind": "reward_model", "pairs": 10, "test_pairs": 3, "validation_pairs": 4})
    assert {split: len(pairs) for split, pairs in few.make_pairs(chat, 0).splits.items()} == {
        "train": 10, "validation": 4, "test": 3
    }  # fmt: skip


def test_a_file_is_divided_by_prompts_and_long_pairs_are_left_out(tmp_path, parts) -> None:
    chat, _ = parts
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": f"question {i // 5}", "chosen": f"good answer {i}", "rejected": "bad"} for i in range(50)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    splits, use = stage(path).make_pairs(chat, 0)
    assert {s: len(p) for s, p in splits.items()} == {"train": 35, "validation": 5, "test": 10} == use.splits
    fewer, use = stage(path, test_pairs=3).make_pairs(chat, 0)
    assert (
        fewer == splits | {"test": splits["test"][:3]}
        and "43 of 50 rows, left out: 7 beyond test_pairs = 3 of 10" in use.note()
    )
    fewer, use = stage(path, validation_pairs=2).make_pairs(chat, 0)
    assert fewer == splits | {"validation": splits["validation"][:2]}
    assert "47 of 50 rows, left out: 3 beyond validation_pairs = 2 of 5" in use.note()
    rows[0]["chosen"] = "good " * 200
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    short, use = stage(path, max_tokens=100).make_pairs(chat, 0)
    assert (
        sum(map(len, short.values())) == 49
        and f"49 of 50 rows, left out: 1 over 100 tokens (first: {path}, line 1)" in use.note()
    )
    with pytest.raises(
        DataError, match="holds pairs of 0 prompts within 5 tokens, 10 at least are needed: raise max_tokens"
    ):
        stage(path, max_tokens=5).make_pairs(chat, 0)


def test_matched_lengths_by_hand() -> None:
    assert (
        matched_length(10, 12)
        and not matched_length(10, 13)
        and matched_length(200, 209)
        and not matched_length(200, 215)
    )


def recipe(tmp_path: Path, model: Path, pairs: Path, name: str, micro: int) -> Path:
    path = tmp_path / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nmodel.path = "{model}"\ncompute.threads = 1\n[stages.reward_model]\n'
        f'kind = "reward_model"\npath = "{pairs}"\n'
        f"pairs = 42\nepochs = 4\nbatch_pairs = 6\nmicro_batch_tokens = {micro}\noptim.lr = 1e-2\n"
    )
    return path


def test_from_a_checkpoint_to_held_out_accuracy_and_scores(tmp_path, parts, capsys) -> None:
    chat, model = parts
    folder, pairs, runs = tmp_path / "model", pairs_file(tmp_path / "pairs.jsonl"), tmp_path / "runs"
    save_model(model, folder)
    chat.save(folder)
    weights = {}
    for name, micro in (("whole", 8192), ("parts", 60)):
        assert main(["train", str(recipe(tmp_path, folder, pairs, name, micro)), "--runs", str(runs)]) == 0
        entry = json.loads((runs / name / "results.json").read_text())["stages"][0]["evals"]["pair_accuracy"]
        assert (
            entry["score"] == 1.0 and entry["n"] == 12 and len(entry["ci95"]) == 2 and entry["matched_length"]["n"] > 0
        )
        weights[name] = Judge.from_folder(runs / name / "checkpoints" / "reward_model" / "final").model.score.weight
    # A batch taken in parts gives the whole batch's gradient.
    assert torch.allclose(weights["whole"], weights["parts"], atol=1e-4)
    assert "held-out pairs" in (runs / "whole" / "report.html").read_text()
    capsys.readouterr()
    assert main(["reward", "score", str(pairs), "--model", str(runs / "whole")]) == 0
    out, err = capsys.readouterr()
    assert all(json.loads(line)["prefers"] == "chosen" for line in out.splitlines()) and "calibrated scores" in err
