"""`qwq release` and `qwq push`: a trained model as a folder for others, and on a hub."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from qwq.release.assemble import ReleaseOptions

Words = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ReleaseFlags:
    """What the release says and holds."""

    name: str = ""
    """The model's name; that of the run or folder by default."""
    license: str = ""
    """Licence in the card, as hubs write it (apache-2.0, mit, ...): the base model's by default,
    apache-2.0 for a model that was trained from random weights."""
    language: Words = ()
    """Languages in the card, as two letters (en zh); the base model's, else en, by default."""
    gguf: Words = ()
    """Quantisations of the GGUF files (F32 F16 BF16 Q8_0 Q4_0 Q3_K_M Q4_K_M Q5_K_M Q6_K), or none;
    by default Q8_0, and Q4_K_M where llama.cpp is installed."""
    leave_out: Words = ()
    """Parts of a run that stay private: recipe.toml, results.json, report.html."""

    def options(self) -> ReleaseOptions:
        from qwq.release.assemble import ReleaseOptions, default_ggufs

        def words(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(word for value in values for word in value.split(",") if word)

        quants = words(self.gguf) or default_ggufs()
        ggufs = () if quants == ("none",) else tuple(q.upper() for q in quants)
        return ReleaseOptions(self.name, self.license, words(self.language), ggufs, leave_out=words(self.leave_out))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def release(model: str, out: Path, *, repo: str = "", flags: ReleaseFlags = ReleaseFlags()) -> int:
    """Write a model as one folder for others: weights, GGUF files, adapter, report, recipe, model
    card, Modelfile for Ollama, checksums.

    After a kill the same command resumes. Prints the folder.

    Parameters
    ----------
    model
        Run folder (its last policy), model folder or hub name.
    out
        Folder to write; one that holds this very release is checked and left as it is.
    repo
        Repository that the card's commands name, OWNER/NAME.
    """
    from dataclasses import replace

    from qwq.release.assemble import release as write
    from qwq.release.push import check_repository

    options = flags.options()
    if repo:
        check_repository(repo)
    print(write(model, out, replace(options, repository=repo) if repo else options, _say))
    return 0


def push(
    model: str,
    repo: str,
    *,
    to: Literal["huggingface", "modelscope"] = "huggingface",
    dry_run: bool = False,
    public: bool = False,
    yes: bool = False,
    release: Path | None = None,
    flags: ReleaseFlags = ReleaseFlags(),
) -> int:
    """Push a model's release to a hub: private, and asked before anything becomes public.

    Every file is checked first: checksums, the card, and that nothing secret is in it. The token is
    the environment's (HF_TOKEN, MODELSCOPE_API_TOKEN) or the hub's own client's. HF_ENDPOINT and
    MODELSCOPE_ENDPOINT name another hub. After a kill the same command resumes.

    Parameters
    ----------
    model
        Run folder (its last policy), model folder, or a folder that `qwq release` wrote.
    repo
        Repository, OWNER/NAME; it is made where it is not there.
    to
        The hub.
    dry_run
        Write the release, print every file with its bytes, send nothing.
    public
        Make the repository public once all is there.
    yes
        Answer yes to the question whether files may be public.
    release
        Folder of the release: `release` in the run's folder by default, FOLDER-release beside a
        model folder.
    """
    from qwq.release.push import plan, prepared
    from qwq.release.push import push as carry_out

    planned = plan(prepared(model, repo, flags.options(), release, _say), repo, to)
    if dry_run:
        print("\n".join(planned.lines()))
        _say("nothing was sent: this is a dry run")
        return 0
    print(carry_out(planned, public=public, confirm=lambda question: yes or _asked(question), say=_say))
    return 0


def _asked(question: str) -> bool:
    """The user's answer; no where nobody can answer."""
    if not sys.stdin.isatty():
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
