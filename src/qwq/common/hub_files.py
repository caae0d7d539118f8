"""Files of Hugging Face's and ModelScope's hubs: names, and downloads that resume and are checked.

    org/name                 Hugging Face
    hf:org/name              the same, also where a folder `org/name` is here
    modelscope:org/name      ModelScope (needs the package modelscope-hub)
    ...@REVISION             a branch, tag or commit
    ...:QUANT, .../FILE.gguf one GGUF file of the repository

Both clients keep what they have fetched and resume from there. What a download wrote is compared
with the hub's checksums once: Hugging Face's client compares sizes alone.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qwq.common.checksums import git_blob_of, sha256_of
from qwq.common.files import write_atomic
from qwq.errors import DataError, ModelError, UsageError, install_hint

Hub = Literal["huggingface", "modelscope"]
PREFIXES: dict[str, Hub] = {"hf": "huggingface", "huggingface": "huggingface", "modelscope": "modelscope"}
_WORD = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"(?:(?P<prefix>hf|huggingface|modelscope):(?://)?)?(?P<name>{_WORD}/{_WORD})(?:@(?P<revision>[\w./-]+?))?"
    rf"(?::(?P<quant>[A-Za-z0-9_]+)|/(?P<file>[\w./-]+\.gguf))?"
)
GIVE = {"model": "a local folder", "dataset": "a local JSON-lines file"}
LOCAL_SUFFIXES = (".jsonl", ".json", ".parquet", ".gguf", ".toml", ".gz", ".csv")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository of a hub, or one GGUF file of it (`file`, or the one whose name has `quant`)."""

    hub: Hub
    name: str
    revision: str | None = None
    quant: str = ""
    file: str = ""
    explicit: bool = False  # written with a prefix

    @property
    def names_file(self) -> bool:
        return bool(self.quant or self.file)

    def __str__(self) -> str:
        where = "modelscope:" if self.hub == "modelscope" else ""
        return f"{where}{self.name}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(text: str) -> HubName | None:
    """The hub's repository that `text` names; None where it is a path.

    Without a prefix, `runs/tiny` has the form of a name too: where `runs` is a folder here, a path
    is meant.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    parts = match.groupdict()
    if parts["prefix"] is None:
        path = Path(text).expanduser()
        if path.parent.exists() or path.parts[0] == "runs" or path.suffix in LOCAL_SUFFIXES:
            return None
    hub = PREFIXES[parts["prefix"] or "hf"]
    quant, file = parts["quant"] or "", parts["file"] or ""
    return HubName(hub, parts["name"], parts["revision"], quant, file, explicit=parts["prefix"] is not None)


def hub_id(text: str) -> str:
    """`org/name` of the hub's repository that `text` names; "" where it is a path."""
    name = parse_hub_name(text)
    return name.name if name else ""


def download(
    name: HubName, patterns: Sequence[str], *, kind: Literal["model", "dataset"] = "model", what: str = "model folder"
) -> Path:
    """The local folder of a repository's files that fit `patterns`, fetched where they are not
    here.

    ModelError (for a data set DataError) where the hub does not give them or their checksums
    differ.
    """
    try:
        folder = (_from_modelscope if name.hub == "modelscope" else _from_huggingface)(name, patterns, kind)
    except _Refusal as refusal:
        problem = ModelError if kind == "model" else DataError
        raise problem(f"no {what} at {name}, and the hub does not give it ({refusal}") from None
    return folder


def list_files(name: HubName, *, kind: Literal["model", "dataset"] = "model") -> list[str]:
    """The paths in a repository. ModelError or DataError where the hub does not give them."""
    try:
        if name.hub == "modelscope":
            return _modelscope_listing(name, kind)
        from huggingface_hub import HfApi, errors

        try:
            return list(HfApi().list_repo_files(name.name, repo_type=kind, revision=name.revision))
        except (errors.HTTPError, errors.HFValidationError, OSError) as error:
            raise _refusal(error, f"check the name, the network and HF_TOKEN, or give {GIVE[kind]}") from None
    except _Refusal as refusal:
        problem = ModelError if kind == "model" else DataError
        raise problem(
            f"no {'data file' if kind == 'dataset' else kind} at {name}, and the hub does not give it ({refusal}"
        ) from None


def _modelscope_listing(name: HubName, kind: str) -> list[str]:
    try:
        files = modelscope_api().list_repo_files(name.name, kind, revision=name.revision)
    except Exception as error:  # noqa: BLE001  # as above
        raise _refusal(error, f"check the name, the network and MODELSCOPE_API_TOKEN, or give {GIVE[kind]}") from None
    return [f.path for f in files if f.type != "tree"]


def gguf_file(name: HubName) -> Path:
    """The GGUF file that a name means, fetched. ModelError where there is none or several."""
    files = [path for path in list_files(name) if path.endswith(".gguf")]
    if name.file:
        fitting = [path for path in files if path == name.file]
    else:
        quant = re.compile(rf"(?<![A-Za-z0-9]){re.escape(name.quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
        fitting = [path for path in files if quant.search(Path(path).stem)]
    if len(fitting) != 1:
        have = ", ".join(fitting or files) or "none at all"
        raise ModelError(
            f"{name} has no single GGUF file for {name.file or name.quant} ({have}): write {name}/FILE.gguf"
        )
    return download(name, fitting, what="GGUF file") / fitting[0]


class _Refusal(Exception):
    """What a hub's client says in one line, and behind a bracket what to do."""


def _refusal(error: BaseException, repair: str) -> _Refusal:
    reason = " ".join(str(error).split())[:200]
    return _Refusal(f"{type(error).__name__}: {reason}): {repair}")


def _from_huggingface(name: HubName, patterns: Sequence[str], kind: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(name.name, repo_type=kind, revision=name.revision, allow_patterns=list(patterns))
    except (errors.HTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, OSError) as error:
        raise _refusal(error, f"check the name, the network and HF_TOKEN, or give {GIVE[kind]}") from None
    _check_blobs(Path(folder))
    return Path(folder)


def _check_blobs(folder: Path) -> None:
    """Compare the files of a snapshot with the checksums that name them in the cache."""
    for path in sorted(folder.rglob("*")):
        blob = path.resolve()
        if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            continue
        stat = blob.stat()
        mark = checked_folder() / blob.name
        state = f"{stat.st_size} {stat.st_mtime_ns}"
        if mark.is_file() and mark.read_text() == state:
            continue
        actual = sha256_of(blob) if len(blob.name) == 64 else git_blob_of(blob)
        if actual != blob.name:
            blob.unlink()  # or the client would take it for whole the next time
            path.unlink()
            raise _Refusal(f"{path.name} arrived damaged and was removed): run the same command again")
        write_atomic(mark, state)


def checked_folder() -> Path:
    """Where marks of files lie whose checksums were compared."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwq" / "checked"


def modelscope_api() -> Any:
    """ModelScope's client. UsageError where its package is not installed."""
    try:
        from modelscope_hub import HubApi
    except ImportError:
        raise UsageError(f"ModelScope needs its client: {install_hint('release')}") from None
    logging.getLogger("modelscope_hub").setLevel(logging.WARNING)
    return HubApi()


def _from_modelscope(name: HubName, patterns: Sequence[str], kind: str) -> Path:
    api = modelscope_api()
    try:
        folder = api.download_repo(
            name.name, kind, revision=name.revision, allow_patterns=list(patterns), progress_callbacks=[]
        )
    except Exception as error:  # noqa: BLE001  # the client lets through whatever its HTTP library raises
        raise _refusal(error, f"check the name, the network and MODELSCOPE_API_TOKEN, or give {GIVE[kind]}") from None
    return Path(folder)
