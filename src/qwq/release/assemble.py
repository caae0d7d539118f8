"""`qwq release`: a model with all that others need to run and check it, as one folder.

    config.json, *.safetensors, tokenizer    the model       NAME-QUANT.gguf     llama.cpp, Ollama
    adapter/                                 LoRA alone      Modelfile           Ollama
    recipe.toml, report.html, results.json   the training    README.md, LICENSE  card and licence
    release.json                             its origin      SHA256SUMS          written last

The folder is made beside its place and renamed when it is whole. A part that is finished is noted;
after a kill the same command resumes with the next part. After an error nothing is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from qwq.common.checksums import SUMS, check_sums, sha256_of, write_sums
from qwq.common.files import atomic_file, hold, sync, whole_lines, write_atomic, writing_to
from qwq.common.run_folder import RunFolder
from qwq.config import keeps_sequence
from qwq.errors import ConfigError, DataError, ModelError, nearest
from qwq.model.gguf_metadata import FILE_TYPES
from qwq.model.model_folder import HUB_FILES, generation_config, read_config, resolve_folder
from qwq.release import facts as facts_of
from qwq.release.card import PLACE, TRAINING, model_card
from qwq.release.card_rules import LICENCES as LICENCES_OF_HUBS
from qwq.release.card_rules import is_language
from qwq.release.facts import ModelFacts
from qwq.release.modelfile import modelfile
from qwq.release.secrets import secrets_in, without_home
from qwq.text.template import ChatFormat

MADE_FROM = "release.json"
DONE = ".done"  # names of finished parts, one a line
MOST_NAME_BYTES = 200
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """`name` is the model's (the run's or folder's by default), `ggufs` the quantisations to write,
    `repository` the hub's name that the card's commands use.
    """

    name: str = ""
    licence: str = ""
    languages: tuple[str, ...] = ()
    ggufs: tuple[str, ...] = ()
    repository: str = PLACE
    leave_out: tuple[str, ...] = ()  # of TRAINING

    def __post_init__(self) -> None:
        check_name(self.name, "--name")
        if self.licence and self.licence not in LICENCES_OF_HUBS:
            raise ConfigError(f"--license {self.licence}: {nearest(self.licence, LICENCES_OF_HUBS)}")
        for language in self.languages:
            if not is_language(language):
                raise ConfigError(f"--language {language}: give the two letters of a language, such as en or zh")
        for name in self.leave_out:
            if name not in TRAINING:
                raise ConfigError(f"--leave-out {name}: {nearest(name, TRAINING)}")
        for quant in self.ggufs:
            if quant not in FILE_TYPES:
                raise ConfigError(f"--gguf {quant}: {nearest(quant, FILE_TYPES)}")


def check_name(name: str, option: str) -> None:
    """ConfigError for a name that cannot be that of a file in a Modelfile and in checksums."""
    if re.search(r"[/\\\x00-\x1f\x7f\x85\u2028\u2029]", name) or len(name.encode()) > MOST_NAME_BYTES:
        raise ConfigError(
            f"{option} {name[:40]!r}: files are called by it, give at most {MOST_NAME_BYTES} bytes without slashes and "
            "line breaks"
        )


@dataclass(frozen=True, slots=True)
class Released:
    """What is released: a model folder, of a run if there is one.

    `adapter` is the run's LoRA adapter; where `merge` is set, the folder is its base.
    """

    folder: Path
    run: RunFolder | None = None
    adapter: Path | None = None
    merge: bool = False

    @classmethod
    def of(cls, source: str) -> Released:
        """What `source` (a run's folder, a model folder or a hub name) means. ModelError where it
        is none.
        """
        path = Path(source).expanduser()
        if path.suffix == ".gguf" or path.is_file():
            raise ModelError(
                f"{source} is a file: release a run or a model folder; `qwq export {shlex.quote(source)} DIR` makes a "
                "folder of a GGUF file"
            )
        run = RunFolder(path)
        if (path / "config.json").is_file() or not run.holds_a_run:
            return cls(resolve_folder(source))
        stage = run.last_finished(keeps_sequence)
        if stage is None:
            raise ModelError(f"{run} has no finished stage yet: run `qwq train` on its recipe until the first one ends")
        adapter = run.adapter(stage) if run.adapter(stage).is_dir() else None
        if run.final(stage).is_dir():
            return cls(run.final(stage), run, adapter)
        base = run.recipe().get("model", {}).get("path")
        if adapter is None or not base:
            raise ModelError(f"{run} has neither model nor adapter of stage {stage}: train it again with --fresh")
        return cls(resolve_folder(base), run, adapter, merge=True)

    @property
    def default_name(self) -> str:
        path = self.run.path if self.run else self.folder
        return path.resolve().name


@dataclass(slots=True)
class _Assembly:
    """One release under way in the folder `place`."""

    released: Released
    options: ReleaseOptions
    place: Path
    say: Say
    ggufs: list[str] = field(default_factory=list)

    def parts(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Every part by name, in order; the last ones tell of the others."""
        if self.released.merge:
            yield "model", self._merge
        else:
            for path in model_files(self.released.folder):
                yield path.name, partial(_copy, path, self.place / path.name)
        for quant in self.options.ggufs:
            yield self.gguf_name(quant), partial(self._gguf, quant)
        if self.released.adapter:
            yield "adapter", self._adapter
        if self.released.run:
            yield "training", self._training
        yield "LICENSE", self._licence
        yield "Modelfile", self._modelfile
        yield "README.md", self._card

    def gguf_name(self, quant: str) -> str:
        return f"{self.name}-{quant}.gguf"

    @property
    def name(self) -> str:
        return self.options.name or self.released.default_name

    def _merge(self) -> None:
        from qwq.release.export import ExportOptions, export

        merged = self.place / ".merged"
        shutil.rmtree(merged, ignore_errors=True)
        assert self.released.adapter is not None
        export(str(self.released.folder), merged, ExportOptions(adapters=[self.released.adapter]))
        for path in merged.iterdir():
            path.replace(self.place / path.name)
        merged.rmdir()

    def _gguf(self, quant: str) -> None:
        from qwq.release.export import ExportOptions, export
        from qwq.release.quality import QualityOptions

        licence, unmeasured = self.facts().licence, QualityOptions(skip=True)
        options = ExportOptions(quant=quant, name=self.name, licence=licence, quality=unmeasured)
        export(str(self.place), self.place / self.gguf_name(quant), options)

    def _adapter(self) -> None:
        assert self.released.adapter is not None
        for path in sorted(self.released.adapter.iterdir()):
            target = self.place / "adapter" / path.name
            if path.suffix == ".json":
                write_atomic(target, without_home(path.read_text(encoding="utf-8")))
            elif path.suffix == ".safetensors":
                _copy(path, target)

    def _training(self) -> None:
        """Recipe, scores and report; paths in a home folder are shortened."""
        run = self.released.run
        assert run is not None
        for path in (run.recipe_file, run.results_file, run.report):
            if path.is_file() and path.name not in self.options.leave_out:
                write_atomic(self.place / path.name, without_home(path.read_text(encoding="utf-8", errors="replace")))

    def _licence(self) -> None:
        path = next((p for name in LICENCES if (p := self.released.folder / name).is_file()), None)
        if path is not None:
            _copy(path, self.place / "LICENSE")
        elif self.facts().licence == "apache-2.0" and (text := _apache()):
            write_atomic(self.place / "LICENSE", text)

    def _modelfile(self) -> None:
        weights = next(
            (n for q in ("Q4_K_M", *reversed(self.options.ggufs)) if (self.place / (n := self.gguf_name(q))).is_file()),
            ".",
        )
        licence = self.place / "LICENSE"
        text = modelfile(
            ChatFormat.from_folder(self.place),
            generation_config(self.place),
            weights=weights,
            max_positions=read_config(self.place).max_positions,
            licence=licence.read_text(encoding="utf-8", errors="replace") if licence.is_file() else "",
        )
        write_atomic(self.place / "Modelfile", text)

    def _card(self) -> None:
        ggufs = sorted((p.name for p in self.place.glob("*.gguf")), key=lambda n: -(self.place / n).stat().st_size)
        card = model_card(
            self.facts(),
            repository=self.options.repository,
            ggufs=ggufs,
            adapter=self.released.adapter is not None,
            training=[name for name in TRAINING if (self.place / name).is_file()],
        )
        write_atomic(self.place / "README.md", without_home(card))

    def facts(self) -> ModelFacts:
        folder = self.released.folder
        facts = facts_of.of_model(self.name, folder, read_config(folder))
        if self.released.run:
            facts = facts_of.of_run(facts, self.released.run.path)
        return replace(
            facts, licence=self.options.licence or facts.licence, languages=self.options.languages or facts.languages
        )


def default_ggufs() -> tuple[str, ...]:
    """The quantisations of a release for which none are named: those that can be written here."""
    return ("Q8_0", "Q4_K_M") if find_spec("llama_cpp") else ("Q8_0",)


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that other programs read."""
    return sorted(
        {
            p
            for pattern in HUB_FILES
            for p in folder.glob(pattern)
            if p.is_file() and p.name not in (MADE_FROM, *LICENCES)
        }
    )


def release(source: str, out: Path, options: ReleaseOptions, say: Say = lambda line: None, *, at: str = "OUT") -> Path:
    """Write the release of `source` to the folder `out`, which errors call `at`; returns it.

    A folder that holds this very release is checked and left as it is. ConfigError where `out`
    holds something else, ModelError for a model that cannot be read, CapacityError for a full disk.
    """
    released = Released.of(source)
    read_config(released.folder)
    check_name(options.name or released.default_name, "--name")
    made_from = _fingerprint(released, options)
    if out.exists():
        return _already(out, made_from)
    with writing_to(out, at=at):
        out.parent.mkdir(parents=True, exist_ok=True)
        place = out.with_name(f".{out.name}.partial")
        place.mkdir(exist_ok=True)
        lock = hold(place / ".lock", f"{out} is being written by another process: wait for it")
        try:
            _fill(_Assembly(released, options, place, say), made_from)
            (place / ".lock").unlink()
            place.rename(out)
            sync(out.parent)
        except Exception:
            shutil.rmtree(place, ignore_errors=True)
            raise
        finally:
            os.close(lock)
    return out


def _fill(assembly: _Assembly, made_from: str) -> None:
    place = assembly.place
    for path in place.rglob(".*.partial"):  # a file that a kill cut short
        path.unlink()
    mark = place / MADE_FROM
    if not mark.is_file() or json.loads(mark.read_bytes())["made_from"] != made_from:
        for path in place.iterdir():  # what a kill left of another release
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        write_atomic(mark, json.dumps({"made_with": f"qwq {metadata.version('qwq')}", "made_from": made_from}) + "\n")
    done = {line.decode() for line in whole_lines(place / DONE)}
    for name, write in assembly.parts():
        if name in done:
            continue
        assembly.say(name)
        write()
        with (place / DONE).open("ab") as file:
            file.write(f"{name}\n".encode())
    (place / DONE).unlink()
    files = files_of(place)
    if found := secrets_in(place, files):
        raise DataError(
            f"nothing was released: {found[0]}{_more(found)}: take it out of the run or the model folder, or give "
            f"--leave-out with one of {', '.join(TRAINING)}"
        )
    write_sums(place, {name: sha256_of(place / name) for name in files})


def _more(found: list[str]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def files_of(folder: Path) -> list[str]:
    """Paths of all files of a released folder but its checksums."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(n for n in names if n not in (SUMS, ".lock"))


def _fingerprint(released: Released, options: ReleaseOptions) -> str:
    """A checksum of what the release is made from: files by size and time, the run's by content."""
    parts = [json.dumps(asdict(options), sort_keys=True), str(released.merge)]
    folders = [released.folder, *([released.adapter] if released.adapter else [])]
    files = [p for folder in folders for p in sorted(folder.iterdir()) if p.is_file()]
    parts += [f"{p.name} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    if run := released.run:
        parts += [sha256_of(p) for p in (run.recipe_file, run.results_file, run.report) if p.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _already(out: Path, made_from: str) -> Path:
    mark = out / MADE_FROM
    if not mark.is_file() or not (out / SUMS).is_file():
        raise ConfigError(f"{out} is there already and is no release: name a folder that is not")
    if json.loads(mark.read_bytes()).get("made_from") != made_from:
        raise ConfigError(
            f"{out} is a release of other weights or with other options: move it away, or name another folder"
        )
    check_sums(out)
    return out


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, atomic_file(target) as written:
        shutil.copyfileobj(read, written, 16 << 20)


def _apache() -> str:
    """The project's own licence text, which is that of Apache 2.0."""
    # A checkout that was built once has metadata without the licence beside those of the install.
    found = (installed.read_text("licenses/LICENSE") for installed in metadata.distributions(name="qwq"))
    return next(filter(None, found), "")
