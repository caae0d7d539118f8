"""What a model card tells of a model: from the run that trained it, or from the model's folder
alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qwq.common.hub_files import hub_id
from qwq.config import keeps_sequence
from qwq.errors import ConfigError
from qwq.model.config import ModelConfig
from qwq.release.card_rules import LICENCES, is_hub_id, is_language
from qwq.tasks.registry import get

if TYPE_CHECKING:
    from qwq.report.run_data import RunData, StageData

UNKNOWN_LICENCE = "other"
FRONT = re.compile(r"\A---\n(.*?)\n---(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Score:
    """One task's score of the released model: a fraction, with its 95% interval over `num`
    problems.
    """

    task: str
    reading: str  # how answers were drawn: "sampled" or "greedy"
    value: float
    low: float
    high: float
    num: int
    samples: int = 1
    outcomes: Mapping[str, int] = field(default_factory=dict)
    hub: str = ""  # the task's data set on the hub, if it has one


@dataclass(frozen=True, slots=True)
class StageFacts:
    """One stage of the training; `verdicts` counts those of its rollouts, `alarms` are its last
    step's.
    """

    name: str
    kind: str
    steps: int | None
    seconds: float
    verdicts: Mapping[str, int]
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """All that the card tells. `base` and `datasets` are names on the hub."""

    name: str
    parameters: int
    context: int
    family: str
    licence: str = UNKNOWN_LICENCE
    licence_name: str = ""  # of a licence that hubs have no word for
    licence_link: str = ""
    base: str = ""
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    sources: tuple[str, ...] = ()  # where problems and texts came from, in words
    stages: tuple[StageFacts, ...] = ()
    scores: tuple[Score, ...] = ()
    seed: int | None = None
    preset: str = ""


def of_model(name: str, folder: Path, config: ModelConfig) -> ModelFacts:
    """What a model folder says of itself, its README.md's metadata among it.

    Metadata that no hub takes is left out; a licence that hubs have no word for is "other" with its
    name.
    """
    card = read_front(folder / "README.md")
    # YAML 1.1 reads Norwegian, no, as false.
    languages = ["no" if text == "False" else text for text in _texts(card.get("language"))]
    stated = _one(card.get("license")).lower()
    licence = stated if stated in LICENCES else UNKNOWN_LICENCE
    other = licence == UNKNOWN_LICENCE
    named = _one(card.get("license_name")) or ("" if stated == licence else stated)
    return ModelFacts(
        name=name,
        parameters=config.num_parameters,
        context=config.max_positions,
        family=config.family,
        licence=licence,
        licence_name=re.sub(r"[^a-z0-9.-]+", "-", named.lower()).strip("-") if other else "",
        licence_link=_one(card.get("license_link")) if other else "",
        base=next(filter(is_hub_id, _texts(card.get("base_model"))), ""),
        datasets=tuple(filter(is_hub_id, _texts(card.get("datasets")))),
        languages=tuple(filter(is_language, languages)) or ("en",),
    )


def of_run(facts: ModelFacts, folder: Path) -> ModelFacts:
    """`facts` of the run's last policy with what the run's folder tells of its training."""
    from qwq.pipeline.run_report import read_run  # with torch, which a push of a released folder does without

    run = read_run(folder)
    recipe = run.recipe
    base = hub_id(str(recipe.get("model", {}).get("path") or "")) or facts.base
    preset = recipe.get("model", {}).get("preset") or ""
    finished = [s for s in run.stages if s.record and s.kind != "start"]
    return replace(
        facts,
        # A preset starts from random weights and texts made here: the project's licence alone.
        licence="apache-2.0" if preset and facts.licence == UNKNOWN_LICENCE else facts.licence,
        base=base,
        preset=preset,
        datasets=tuple(dict.fromkeys([*_datasets(recipe), *facts.datasets])),
        sources=tuple(dict.fromkeys(_sources(recipe))),
        stages=tuple(_stage(s) for s in finished),
        scores=tuple(_scores(run)),
        seed=recipe.get("seed"),
    )


def read_front(path: Path) -> dict[str, Any]:
    """The metadata at the top of a README.md; empty where there is none that can be read."""
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    match = FRONT.match(text)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _texts(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)] if value or value is False else []


def _one(value: Any) -> str:
    return next(iter(_texts(value)), "")


def _stage(stage: StageData) -> StageFacts:
    record = stage.record or {}
    last = stage.metrics[-1].get("alarms", []) if stage.metrics else []
    return StageFacts(
        stage.name, stage.kind, record.get("steps"), float(record.get("wall_s") or record.get("train_s") or 0.0),
        dict(sorted(stage.outcomes.items())), tuple(f.text.replace("**", "") for f in stage.view.facts),
        tuple(map(str, last)),
    )  # fmt: skip


def _scores(run: RunData) -> Iterator[Score]:
    """Scores of the last policy, the one that is released."""
    name = run.folder.last_finished(keeps_sequence)
    stage = run.stage(name) if name else None
    if stage is None:
        return
    for reading, rows in (("sampled", stage.evals), ("greedy", stage.evals_greedy)):
        for task, row in rows.items():
            if "score" not in row:
                continue
            low, high = row.get("ci95") or (row["score"], row["score"])
            yield Score(
                task, reading, float(row["score"]), float(low), float(high), int(row.get("n", 0)),
                int(row.get("samples", 1)), row.get("outcomes", {}), next(iter(_hub_sets(task)), ""),
            )  # fmt: skip


def _hub_sets(task: str) -> Sequence[str]:
    """The data sets of a task that were published on the hub."""
    try:
        published = getattr(get(task), "published", None)
    except ConfigError:
        return ()  # a task of the user's own, whose file is not here any more
    return published.hub if published else ()


def _training_sources(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, path) of everything that the stages read; the kind of a task in a mix is "mix"."""
    for stage in recipe.get("stages", {}).values():
        for source in [*(stage.get("sources") or ()), *([stage["source"]] if stage.get("source") else [])]:
            yield str(source.get("kind", "")), str(source.get("path") or source.get("level") or "")
        if isinstance(path := stage.get("path"), str):
            yield "file", path
        yield from (("mix", task) for task, share in (stage.get("mix") or {}).items() if share)


def _datasets(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Data sets of the hub that the stages trained on; a copy of a published set on disk is that
    set.
    """
    for kind, path in _training_sources(recipe):
        if name := hub_id(path):
            yield name
        else:
            yield from _hub_sets(path if kind in ("mix", "task") else kind)


def _sources(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Where texts and problems came from, in words, without the paths of this machine."""
    for kind, path in _training_sources(recipe):
        if kind == "mix":
            yield path if _hub_sets(path) else f"procedural family `{path}`"
        elif kind == "arithmetic":
            yield f"arithmetic of level {path}"
        elif kind in ("file", "task"):
            yield f"`{hub_id(path) or Path(path).name}`"
        else:
            yield f"{kind} (`{hub_id(path) or Path(path).name}`)"
