"""`qwq push`: a release to a hub, complete and equal by checksum, or one line that says why not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qwq.common.checksums import SUMS, check_sums, sha256_of, write_sums
from qwq.common.files import move_aside, write_atomic
from qwq.common.hub_files import parse_hub_name
from qwq.errors import ConfigError, DataError, InfraError
from qwq.release.assemble import MADE_FROM, Released, ReleaseOptions, files_of, release
from qwq.release.card import PLACE
from qwq.release.card_rules import faults_of
from qwq.release.facts import read_front
from qwq.release.hubs import Say, hub_of, place_of
from qwq.release.secrets import secrets_in

HubKind = Literal["huggingface", "modelscope"]
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push would do: every file of `folder` with its bytes, the checksums last."""

    folder: Path
    repository: str
    hub: HubKind
    place: str
    files: dict[str, int]

    def lines(self) -> list[str]:
        """The plan as a dry run prints it: bytes and path of each file, then the sum."""
        width = max(len(str(size)) for size in self.files.values())
        rows = [f"{size:>{width}} {name}" for name, size in self.files.items()]
        return [
            *rows,
            f"{sum(self.files.values())} bytes in {len(self.files)} files of {self.folder} for {self.address}",
        ]

    @property
    def address(self) -> str:
        models = "models/" if self.hub == "modelscope" else ""
        return f"{self.place}/{models}{self.repository}"


def prepared(source: str, repository: str, options: ReleaseOptions, folder: Path | None, say: Say) -> Path:
    """The released folder to push: `source` itself where it is one, else the release of `source`
    in `folder` (by default `release` in the run's folder, or beside the model's; here where nothing
    may be written there).

    A release of an older state of the run is kept as release.1. ConfigError for a repository's name
    that no hub takes, and for whatever keeps the release from being written.
    """
    check_repository(repository)
    path = Path(source).expanduser()
    if (path / SUMS).is_file() and (path / MADE_FROM).is_file():
        _name_repository(path, repository)
        return path
    if folder is None:
        folder = _default_folder(source)
    options = replace(options, repository=repository)
    try:
        return release(source, folder, options, say, at="--release")
    except ConfigError:
        if not (folder / MADE_FROM).is_file():
            raise
        say(f"{folder} was made from another state: it is {move_aside(folder)} now")
        return release(source, folder, options, say, at="--release")


def check_repository(repository: str) -> None:
    """ConfigError for a name that no hub takes."""
    if not REPOSITORY.fullmatch(repository) or "--" in repository or ".." in repository:
        raise ConfigError(f"{repository!r} is no repository's name: write OWNER/NAME, of letters, digits, -, _ and .")


def _default_folder(source: str) -> Path:
    released = Released.of(source)
    if parse_hub_name(source) and not released.run:
        raise ConfigError(f"{source} is on a hub: `qwq release {source} DIR`, then `qwq push DIR REPO`")
    name = f"{released.default_name}-release"
    folder = released.run.path / "release" if released.run else released.folder.with_name(name)
    return folder if os.access(folder.parent, os.W_OK) else Path(name)


def _name_repository(folder: Path, repository: str) -> None:
    """Put the repository's name into the card's commands, where it was not known when the card was
    written.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    if PLACE not in card:
        return
    sums = check_sums(folder)
    write_atomic(folder / "README.md", card.replace(PLACE, repository))
    write_sums(folder, sums | {"README.md": sha256_of(folder / "README.md")})


def plan(folder: Path, repository: str, hub: HubKind) -> PushPlan:
    """What a push of a released folder would do; every file is checked. Nothing is sent.

    ConfigError for a name that no hub takes, DataError for a folder that is not as it was released,
    for a card that no hub accepts, and for what must not be published.
    """
    check_repository(repository)
    sums = check_sums(folder)
    names = files_of(folder)
    if extra := sorted(set(names) - set(sums)):
        raise DataError(f"{folder / extra[0]} is not in {SUMS}: take it away, or release the folder again")
    if faults := faults_of((folder / "README.md").read_text(encoding="utf-8")):
        raise DataError(f"{folder / 'README.md'}: {faults[0]}: release the folder again")
    if found := secrets_in(folder, names):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DataError(f"nothing was sent: {folder}/{found[0]}{more}: take it out and release the folder again")
    files = {name: (folder / name).stat().st_size for name in [*names, SUMS]}
    return PushPlan(folder, repository, hub, place_of(hub), files)


def push(planned: PushPlan, *, public: bool, confirm: Callable[[str], bool], say: Say) -> str:
    """Carry a plan out; returns the repository's address.

    The repository is private until all is there. `confirm` is asked before anything becomes public;
    ConfigError where it says no.
    """
    hub = hub_of(planned.hub)
    repository = planned.repository
    private = hub.is_private(repository)
    if private is False and not confirm(f"{planned.address} is public: everyone will see these files at once. Push?"):
        raise ConfigError(
            f"{planned.address} is public, and nothing was sent: give --public --yes, or another repository"
        )
    if public and private is not False and not confirm(f"{planned.address} will be public. Continue?"):
        raise ConfigError("nothing was sent: leave --public out for a private repository, or give --yes")
    if private is None:
        hub.create(repository, str(read_front(planned.folder / "README.md").get("license", "other")), public=public)
    names = list(planned.files)
    if hub.differing(repository, planned.folder, names) if private is not None else names:
        hub.upload(repository, planned.folder, names, say)
        if differing := hub.differing(repository, planned.folder, names):
            raise InfraError(
                f"{planned.address} has another {differing[0]} than {planned.folder}: run the same command again"
            )
    if public and private is not False:
        hub.publish(repository)
    return planned.address
