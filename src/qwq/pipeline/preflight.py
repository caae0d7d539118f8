"""What a recipe needs from outside, read and checked before anything is written, moved, downloaded
or trained.

Here are the parts that need no weights and no torch, which `qwq explain` uses too: which data files
are missing and how to get them, the run's tokenizer and template, and whether completions fit the
model's positions. `runner.RecipeRun.check` goes through all of them, and through model folder,
reward functions and memory besides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qwq.config import Recipe, Source
from qwq.data.row_files import is_hub_id
from qwq.errors import ConfigError, DataError
from qwq.model.config import preset
from qwq.pipeline.preview import reader_of
from qwq.tasks.constraints import BUILTIN
from qwq.tasks.mix import ProblemMix
from qwq.tasks.published import how_to_get
from qwq.text.template import ChatFormat, ChatTemplate, default_template
from qwq.text.tokenizer import Tokenizer, train_bpe

TOKENIZER_DOCUMENTS = 4000  # that a preset's tokenizer is trained on
OURS = "qwq"  # model.chat_template: the template of this project


# -- data files ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MissingFile:
    """A data file that is not here: its path as the recipe has it, the keys that name it, and what
    it should hold.
    """

    path: str
    keys: tuple[str, ...]
    holds: str

    @property
    def repair(self) -> str:
        """How to get it."""
        return how_to_get(self.path) or f"give {self.holds}, or another path"


def missing_files(recipe: Recipe, names: Iterable[str] | None = None, *, evaluation: bool = True) -> list[MissingFile]:
    """The local data files that stages `names` (all by default) and the benchmarks name and that
    are not here, each once. Hub ids are not asked for.
    """
    found: dict[str, tuple[list[str], str]] = {}

    def look(path: str | None, key: str, holds: str) -> None:
        if path and not at_hand(path):
            keys, _ = found.setdefault(path, ([], holds))
            keys += [key] if key not in keys else []

    def look_at(source: Source, key: str) -> None:
        if source.kind != "task":  # a class, which says for itself what it lacks
            look(source.path, f"{key}.path", f"a JSON-lines file of {source.kind} rows")
        for benchmark in source.decontaminate:
            look(benchmark, f"{key}.decontaminate", "the benchmark's file, or leave it out of decontaminate")

    names = list(recipe.stages if names is None else names)
    for name in own_data(recipe, names):
        stage = recipe.stages[name]
        look(stage.data_file, f"stages.{name}.path", f"a JSON-lines file with {stage.rows_hold} on each line")
    for name in names:
        for number, source in enumerate(recipe.stages[name].problem_sources()):
            look_at(source, f"stages.{name}.sources.{number}")
    for number, source in enumerate(recipe.eval.sources if evaluation else ()):
        look_at(source, f"eval.sources.{number}")
    return [MissingFile(path, tuple(keys), holds) for path, (keys, holds) in found.items()]


def missing_lines(recipe: Recipe, assumed: str) -> list[str]:
    """Which data files are not here, what needs them, and how to get them; the plan has `assumed`
    something instead.
    """
    missing = missing_files(recipe)
    if not missing:
        return []
    lines = [f"Not here, and needed by `qwq train` (this plan assumes {assumed} where it needs them):"]
    for file in missing:
        lines += [f"  {file.path} for {', '.join(file.keys)}", f"    {file.repair}"]
    return [*lines, ""]


def own_data(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """The stages on conversations or pairs whose files the stages `names` read: a control goes on
    with the file of another stage.
    """
    owners = dict.fromkeys(recipe.stages[name].data_owner(name) for name in names)
    return [name for name in owners if recipe.stages[name].data_file]


def at_hand(path: str) -> bool:
    """Whether a data file is here, or needs no file here: generated, or on the hub."""
    return path == BUILTIN or is_hub_id(path) or Path(path).expanduser().exists()


def require_files(missing: list[MissingFile]) -> None:
    """DataError that names all files that are missing."""
    if len(missing) == 1:
        raise DataError(
            f"no data file at {Path(missing[0].path).expanduser()} ({missing[0].keys[0]}): {missing[0].repair}"
        )
    if missing:
        places = ", at ".join(str(Path(m.path).expanduser()) for m in missing)
        raise DataError(f"no data file at {places}: `qwq explain RECIPE` says how to get each")


# -- tokenizer and template ------------------------------------------------------------------------


def chat_format(recipe: Recipe, folder: Path | None = None) -> ChatFormat:
    """The run's tokenizer and template: the checkpoint's own, or of a preset those in `folder`;
    trained now where that is not there.

    No weights are read or downloaded.
    """
    model = recipe.model
    if model.path:
        own, _ = reader_of(model.path)
        if model.chat_template is None:
            return own
        return ChatFormat(
            own.tokenizer,
            default_template() if model.chat_template == OURS else _template_of(Path(model.chat_template).expanduser()),
        )
    if folder is not None and folder.exists():
        return ChatFormat.from_folder(folder)
    return ChatFormat(_train_tokenizer(recipe), default_template())


def _template_of(path: Path) -> ChatTemplate:
    if not path.is_file():
        raise ConfigError(f'model.chat_template: no file {path}: give a Jinja file, or "{OURS}" for ours')
    try:
        return ChatTemplate(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"model.chat_template: {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None


def _train_tokenizer(recipe: Recipe) -> Tokenizer:
    """Byte-level BPE on the documents of the first stage, rendered by the default template."""
    stage = next(iter(recipe.stages.values()))
    weights, noise = stage.demonstrations()
    mix, template = ProblemMix(0, "tokenizer", weights), default_template()
    texts = []
    for i in range(TOKENIZER_DOCUMENTS):
        problem, turns = mix.demonstration(i, noise)
        texts.append(template.render([*problem.messages, *turns], tools=problem.tools))
    size = recipe.model.vocab_size or preset(recipe.model.preset or "").vocab_size
    return train_bpe(texts, size)
