"""Procedural problems: splits that cannot leak, demonstrations that are right, streams that can be
resumed.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from qwq.config import Recipe, load_recipe
from qwq.envs import answer_calls, environment_for
from qwq.errors import ConfigError
from qwq.pipeline.rl_stage import RlStage
from qwq.pipeline.stages.pretrain import PretrainStage
from qwq.pipeline.stages.reward_model import RewardModelStage
from qwq.pipeline.stages.sft import SftStage
from qwq.tasks import get
from qwq.tasks.mix import ProblemMix
from qwq.tasks.procedural.base import Family, digest, split_of
from qwq.tasks.procedural.preference import Preference
from qwq.tasks.questions import contaminated, normalise
from qwq.types import DOMAINS, SPLITS, Message, Outcome, Problem, Response
from qwq.verify.grade import grade

RECIPES = Path(__file__).parents[3] / "recipes"
NUM_FIXED = 300


@cache
def fixed(domain: str, split: str, num: int = NUM_FIXED) -> tuple[Problem, ...]:
    return tuple(get(domain).fixed(split, num))


def response_to(turns: tuple[Message, ...]) -> Response:
    """What a verifier would see of a rollout that wrote these turns."""
    calls = tuple(c for m in turns if m.role == "assistant" for c in m.tool_calls)
    results = tuple(m.content for m in turns if m.role == "tool")
    return Response(turns[-1].content, calls=calls, results=results)


# -- splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_canonical_form_is_in_two_splits(domain: str) -> None:
    forms = {split: {get(domain).problem(0, split, i).canonical for i in range(500)} for split in SPLITS}
    forms["train"] |= {get(domain).problem(seed, "train", i).canonical for seed in (1, 2) for i in range(500)}
    assert not forms["train"] & forms["validation"]
    assert not forms["train"] & forms["test"]
    assert not forms["validation"] & forms["test"]
    assert all(split_of(c) == split for split, found in forms.items() for c in found)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_fixed_sets_do_not_change_and_hold_no_problem_twice(domain: str, split: str) -> None:
    problems = fixed(domain, split)
    assert len({p.id for p in problems}) == len({p.messages for p in problems}) == NUM_FIXED
    assert list(problems[:50]) == get(domain).fixed(split, 50)
    assert get(domain).fixed(split, 0) == []
    assert all(p.domain == domain and p.source == "procedural" for p in problems)


def test_a_family_with_too_few_problems_says_how_many_it_has() -> None:
    class Three(Family):
        domain = "math"

        def draw(self, rng: random.Random) -> Problem:
            return Problem(name := f"math/{rng.choice(test_forms)}", "math", (Message("user", name),), {}, name)

        def demonstrate(self, problem: Problem, rng: random.Random, *, noisy: bool = False) -> tuple[Message, ...]:
            return (Message("assistant", "1"),)

    test_forms = [str(i) for i in range(200) if split_of(f"math/{i}") == "test"][:3]
    assert {p.id for p in Three().fixed("test", 3)} == {f"math/{f}" for f in test_forms}
    with pytest.raises(ConfigError, match="only 3 distinct test problems, 4 asked for"):
        Three().fixed("test", 4)


def test_code_of_the_test_split_is_composed_as_no_training_problem_is() -> None:
    """Read from the operations themselves, not from the canonical form."""
    tested = {tuple(name for name, _ in p.truth["steps"]) for p in fixed("code", "test")}
    kinds = {
        (p.messages[0].content.split(":")[0], tuple(n for n, _ in p.truth["steps"])) for p in fixed("code", "test")
    }
    trained = [get("code").problem(seed, "train", i) for seed in range(3) for i in range(700)]
    steps = [tuple(name for name, _ in p.truth["steps"]) for p in trained]
    assert len(tested) > 50
    assert not kinds & {(p.messages[0].content.split(":")[0], s) for p, s in zip(trained, steps, strict=True)}
    # What the test asks for is new as a whole, not in its parts.
    assert {name for s in tested for name in s} <= {name for s in steps for name in s}


def test_math_canonical_forms_ignore_names_and_things() -> None:
    """Problems with the same numbers and operations have one form, whoever owns what."""
    by_truth: dict[tuple, set[str]] = {}
    texts: Counter[str] = Counter()
    for i in range(4000):
        p = get("math").problem(0, "train", i)
        chain = p.canonical.split("/")[1]
        by_truth.setdefault((chain, p.truth["start"], tuple(p.truth["steps"])), set()).add(p.canonical)
        texts[p.canonical] += 1
    assert all(len(forms) == 1 for forms in by_truth.values())
    assert max(texts.values()) > 1, "4000 draws with no form twice: this test would show nothing"


@cache
def held_out() -> dict[str, Problem]:
    """Everything that tiny.toml tests on, and what stage 2 validates on, by canonical form."""
    recipe = tiny()
    tests = [p for d, n in recipe.eval.counts().items() for p in fixed(d, "test", n)]
    contract = next((s.contract.problems for s in recipe.stages.values() if s.kind == "rl2"), 0)
    checks = [p for d in recipe.eval.counts() for p in fixed(d, "validation", max(contract, 50))]
    return {p.canonical: p for p in [*tests, *checks]}


@cache
def tiny() -> Recipe:
    return load_recipe(RECIPES / "tiny.toml")


def training_stream(name: str, num: int) -> list[tuple[Problem, tuple[Message, ...]]]:
    """The first problems that a stage of tiny.toml trains on, with the demonstrations it reads, if
    any.
    """
    recipe = tiny()
    stage = recipe.stages[name]
    if isinstance(stage, RewardModelStage):
        return [(Preference().problem(recipe.seed, "train", i), ()) for i in range(num)]
    assert isinstance(stage, PretrainStage | SftStage | RlStage)
    mix = ProblemMix(recipe.seed, name, stage.mix.weights())
    if isinstance(stage, RlStage):
        return [(mix.problem(i), ()) for i in range(num)]
    return [mix.demonstration(i, stage.noise if isinstance(stage, PretrainStage) else 0.0) for i in range(num)]


@pytest.mark.parametrize("name", [n for n, s in tiny().stages.items() if s.kind != "control"])
def test_no_test_problem_occurs_in_a_stages_training_text(name: str) -> None:
    stream = training_stream(name, 3000)
    assert not {p.canonical for p, _ in stream} & held_out().keys()
    # And by the words themselves: no prompt that is tested on is a training prompt, with whatever
    # punctuation.
    prompts = {normalise(m.content) for p, _ in stream for m in p.messages}
    assert not prompts & {normalise(p.messages[0].content) for p in held_out().values()}


def test_the_tokenizers_documents_hold_no_test_problem() -> None:
    stage = next(iter(tiny().stages.values()))
    assert isinstance(stage, PretrainStage)
    mix = ProblemMix(0, "tokenizer", stage.mix.weights())
    assert not {mix.problem(i).canonical for i in range(4000)} & held_out().keys()


@pytest.mark.parametrize("domain", DOMAINS)
def test_drills_hold_no_whole_problem(domain: str) -> None:
    one = get(domain)
    pages = [one.drill(random.Random(i)) for i in range(300)]
    texts = ["\n".join(q + a for q, a in page) for page in pages if page]
    assert contaminated(texts, fixed(domain, "test")) == []
    for problem in fixed(domain, "test"):
        answer = one.demonstrate(problem, random.Random(0))[-1].content.rpartition("</think>")[2].strip()
        if "\n" in answer:  # a one-line answer, such as a number, can stand anywhere
            assert not any(answer in text for text in texts)


def test_calculator_drills_are_sums_of_the_training_split() -> None:
    pages = [get("tools").drill(random.Random(i)) for i in range(300)]
    assert all(split_of(f"tools/{expression}") == "train" for page in pages for _, expression in page)


# -- demonstrations --------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["math", "instructions", "tools"])
def test_clean_demonstrations_are_judged_correct(domain: str) -> None:
    for i in range(150):
        problem = get(domain).problem(0, "train", i)
        verdict = grade(problem, response_to(get(domain).demonstrate(problem, random.Random(i))))
        assert verdict.outcome is Outcome.CORRECT, (problem.id, verdict.reason)


@pytest.mark.parametrize("domain", ["math", "instructions", "tools", "preference"])
def test_noisy_demonstrations_are_mostly_wrong(domain: str) -> None:
    wrong = 0
    for i in range(150):
        problem = get(domain).problem(0, "train", i)
        verdict = grade(problem, response_to(get(domain).demonstrate(problem, random.Random(i), noisy=True)))
        wrong += verdict.outcome in (Outcome.WRONG, Outcome.NO_ANSWER)
    assert wrong >= 0.6 * 150


def test_code_demonstrations_in_the_sandbox() -> None:
    """Clean ones pass every hidden test; most with a slip fail one."""
    failed = 0
    for i in range(20):
        problem = get("code").problem(0, "train", i)
        clean = grade(problem, response_to(get("code").demonstrate(problem, random.Random(i))))
        assert clean.outcome is Outcome.CORRECT, (problem.id, clean.reason)
        noisy = grade(problem, response_to(get("code").demonstrate(problem, random.Random(i), noisy=True)))
        failed += noisy.outcome is Outcome.WRONG
    assert failed >= 12


def test_tool_demonstrations_show_what_the_calculator_would_return() -> None:
    for noisy in (False, True):
        for i in range(60):
            problem = get("tools").problem(0, "train", i)
            turns = get("tools").demonstrate(problem, random.Random(i), noisy=noisy)
            environment = environment_for(problem)
            calls = [c for m in turns if m.role == "assistant" for c in m.tool_calls]
            assert [m.content for m in answer_calls(environment, calls)] == [
                m.content for m in turns if m.role == "tool"
            ]


def test_no_prompt_shows_its_truth() -> None:
    """The gold answer of an arithmetic prompt is not among its numbers more often than chance puts
    it there.
    """
    for domain in ("math", "tools"):
        shown = sum(p.truth["gold"] in p.messages[0].content.replace(".", " ").split() for p in fixed(domain, "test"))
        assert shown < 0.2 * NUM_FIXED
    assert not any(
        "hedge" in p.messages[0].content or "sentence" in p.messages[0].content for p in fixed("preference", "test")
    )


# -- preference ------------------------------------------------------------------------------------


def test_pairs_chosen_meets_the_hidden_rule_and_rejected_does_not() -> None:
    one = Preference()
    for i in range(300):
        problem = one.problem(0, "train", i)
        chosen, rejected = one.pair(problem, random.Random(i))
        assert grade(problem, response_to((chosen,))).outcome is Outcome.CORRECT
        assert grade(problem, response_to((rejected,))).outcome is Outcome.WRONG


@pytest.mark.parametrize("flaw", ["hedge", "long", "thing", "kind", "color", "place"])
def test_each_flaw_alone_breaks_the_hidden_rule(flaw: str) -> None:
    one = Preference()
    verdicts = []
    for i in range(100):
        problem = one.problem(0, "train", i)
        assert grade(problem, Response(one.compose(problem, random.Random(i)))).outcome is Outcome.CORRECT
        verdicts.append(grade(problem, Response(one.compose(problem, random.Random(i), frozenset({flaw})))).outcome)
    assert set(verdicts) == {Outcome.WRONG}


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_stream_is_a_function_of_seed_and_index(domain: str) -> None:
    stream = get(domain).stream(3, "train", start=7)
    assert [next(stream) for _ in range(5)] == [get(domain).problem(3, "train", i) for i in range(7, 12)]
    texts = [[get(domain).problem(seed, "train", i).messages for i in range(20)] for seed in (3, 4)]
    assert texts[0] != texts[1]


def test_a_mix_goes_on_from_any_number() -> None:
    weights = {"math": 0.5, "tools": 0.5}
    forward = ProblemMix(1, "rl1", weights)
    problems = [forward.problem(i) for i in range(60)]
    late = ProblemMix(1, "rl1", weights)
    assert [late.problem(i) for i in reversed(range(60))] == problems[::-1]
    assert [ProblemMix(1, "sft", weights).problem(i) for i in range(60)] != problems
    assert [ProblemMix(2, "rl1", weights).problem(i) for i in range(60)] != problems


def test_a_mix_keeps_to_its_weights() -> None:
    mix = ProblemMix(0, "x", {"math": 3.0, "tools": 1.0}, {"real": (4.0, [])})
    counts = Counter(mix.choose(i) for i in range(4000))
    assert counts["real"] / 4000 == pytest.approx(0.5, abs=0.04)
    assert counts["math"] / 4000 == pytest.approx(0.375, abs=0.04)


def test_a_real_set_is_shown_whole_before_it_is_shown_again() -> None:
    pool = [Problem(str(i), "math", (Message("user", str(i)),), {"gold": "1"}, str(i)) for i in range(17)]
    mix = ProblemMix(0, "rl1", {}, {"gsm8k": (1.0, pool)})
    first, second = ([mix.problem(i + 17 * turn).id for i in range(17)] for turn in (0, 1))
    assert sorted(first) == sorted(second) == sorted(p.id for p in pool)
    assert first != second
    assert ProblemMix(0, "rl1", {}, {"gsm8k": (1.0, pool)}).problem(20).id == second[3]


def test_every_domain_has_its_family() -> None:
    for domain in DOMAINS:
        assert isinstance(get(domain), Family) and get(domain).domain == domain
    with pytest.raises(ConfigError, match="did you mean 'math'"):
        get("maths")


def test_digest_is_the_same_on_every_machine() -> None:
    """Splits and streams rest on it: blake2b-64 of the text, read big-endian."""
    assert digest("") == 0xE4A6A0577479B2B4


def test_no_held_out_composition_stands_inside_a_longer_training_one() -> None:
    code = get("code")

    def names(problem: Problem) -> tuple[str, ...]:
        return tuple(name for name, _ in problem.truth["steps"])

    inside = set()
    for index in range(3000):
        steps = names(code.problem(0, "train", index))
        inside |= {steps[i:j] for i in range(len(steps) - 1) for j in range(i + 2, len(steps) + 1)}
    assert len(inside) > 1000
    for split in ("validation", "test"):
        assert not [p.id for p in code.fixed(split, 200) if names(p) in inside]
