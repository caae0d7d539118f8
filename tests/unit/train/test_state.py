"""The typed state of a stage: the names on disk, what an older checkpoint brings along, and what is
refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from qwq.config import ComputeSection, Optim, RlConfig
from qwq.errors import ModelError
from qwq.model.config import preset
from qwq.model.transformer import Transformer
from qwq.tasks.mix import ProblemMix
from qwq.text.template import ChatFormat, default_template
from qwq.text.tokenizer import train_bpe
from qwq.train.best import ValidationLog
from qwq.train.checkpoint import StageRun
from qwq.train.optim import Optimizer
from qwq.train.rl import RlState, RlTrainer, Totals
from qwq.train.stage2 import ContractState
from qwq.train.state import VERSION, StageState

# state.json as the version before the typed state wrote it, in an rl2 stage that validates.
OLD = {
    "step": 3, "seconds": 1.5, "data": [{"path": "a.jsonl"}], "next_problem": 24, "mix": {"math": 0.25, "tools": 0.75},
    "watch": {"kl": [[0.1], [0.1, 0.2]]},
    "totals": {"sampled_tokens": 7, "sampling_s": 0.5, "verifying_s": 0.25, "trained_tokens": 6, "training_s": 0.125},
    "contract_before": {"math": [1.0, 0.0]}, "contract_log": [{"step": 1}], "validation": [{"step": -1, "score": 0.5}],
}  # fmt: skip


def test_a_state_of_an_older_run_is_read_whole_and_keeps_its_names():
    state = StageState()
    rl, guard, log = state.part(RlState), state.part(ContractState), state.part(ValidationLog)
    state.load(OLD)
    assert (state.step, state.seconds, state.ended, state.data) == (3, 1.5, None, [{"path": "a.jsonl"}])
    assert (rl.next_problem, rl.mix, rl.watch) == (24, OLD["mix"], OLD["watch"])
    assert rl.totals == Totals(7, 0.5, 0.25, 6, 0.125)
    assert guard.contract_before == {"math": [1.0, 0.0]} and guard.contract_log == [{"step": 1}]
    assert log.validation == [{"step": -1, "score": 0.5}]
    assert json.loads(json.dumps(state.to_dict())) == OLD | {"version": VERSION}


def test_a_part_that_asks_after_the_checkpoint_was_read_has_its_values():
    state = StageState()
    state.load(OLD)
    assert state.part(RlState).next_problem == 24 and state.part(RlState) is state.part(RlState)


def test_what_no_part_has_asked_for_stays_in_the_checkpoint():
    state = StageState()
    state.load({"step": 1, "of_another": [1, 2]})
    state.step = 2
    assert state.to_dict()["of_another"] == [1, 2] and state.to_dict()["step"] == 2


def test_two_parts_may_not_share_a_name():
    @dataclass
    class Mine:
        mix: dict = field(default_factory=dict)

    state = StageState()
    state.part(RlState)
    with pytest.raises(ValueError, match="both have a field mix"):
        state.part(Mine)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"version": VERSION + 1}, "version 2, this qwq reads up to 1"),
        ({"step": "three"}, "step = 'three', expected int"),
    ],
)
def test_a_state_that_cannot_be_read_is_refused_in_one_line(stored, message):
    with pytest.raises(ModelError, match=message) as refused:
        StageState().load(stored)
    assert "\n" not in str(refused.value)


def test_building_an_rl_trainer_touches_no_file_and_prepare_resumes(tmp_path: Path):
    chat = ChatFormat(train_bpe(["one two three"], 275), default_template())
    config = preset("tiny", vocab_size=300, eos_token_id=0, pad_token_id=0, bos_token_id=None)

    def build(run: StageRun, seed: int) -> RlTrainer:
        torch.manual_seed(seed)
        model = Transformer(config).init_weights(torch.Generator().manual_seed(seed))
        rl = RlConfig(steps=4, kl=0.01, optim=Optim())
        return RlTrainer(model, chat, rl, ComputeSection(), run, ProblemMix(0, "rl", {}), None, seed=0)  # type: ignore[arg-type]

    first = build(StageRun(tmp_path / "run", "rl", "rl1"), 0)
    assert list(tmp_path.iterdir()) == [] and first.reference.copy is None
    first.prepare()
    first.state.next_problem, first.run.state.step = 8, 2
    first.run.save(first.model, Optimizer(first.model, Optim(), 4))
    second = build(StageRun(tmp_path / "run", "rl", "rl1"), 1)
    start = second.model.embed.weight.detach().clone()
    assert second.state.next_problem == 0
    second.prepare()
    assert (second.state.next_problem, second.run.state.step) == (8, 2)
    assert torch.equal(second.model.embed.weight, first.model.embed.weight)
    assert second.reference.copy is not None and torch.equal(second.reference.copy.embed.weight, start)
