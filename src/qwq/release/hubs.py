"""The hubs that a release is pushed to, each through its own client.

Large files go to the hub's storage one by one, where a second try finds them; one commit makes all
appear together. So a repository holds a release whole or not at all.

Tokens come from the environment (HF_TOKEN, MODELSCOPE_API_TOKEN) or the client's own store; no
message holds one.
"""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from qwq.common.checksums import SUMS, git_blob_of, read_sums, sha256_of
from qwq.common.hub_files import modelscope_api
from qwq.errors import ConfigError, InfraError, QwqError
from qwq.release.secrets import scrubbed

Say = Callable[[str], None]
MESSAGE = "Release by qwq"


class ReleaseHub(Protocol):
    """A hub as `push` sees it. Every method raises ConfigError for what the user can mend (token,
    name, rights) and InfraError where the hub or the network fails.
    """

    place: str  # where the hub is, such as https://huggingface.co

    def is_private(self, repository: str) -> bool | None:
        """Whether the repository is private; None where there is none."""

    def create(self, repository: str, licence: str, *, public: bool) -> None:
        """Make the repository: private, if the hub can make it public later."""

    def upload(self, repository: str, folder: Path, names: list[str], say: Say) -> None:
        """Bring the files of `folder` into the repository."""

    def differing(self, repository: str, folder: Path, names: list[str]) -> list[str]:
        """The files that the repository lacks or has in another form, by checksum."""

    def publish(self, repository: str) -> None:
        """Make the repository public."""


def hub_of(name: str) -> ReleaseHub:
    """The hub `huggingface` or `modelscope`. ConfigError where there is no token for it."""
    return ModelScopeHub() if name == "modelscope" else HuggingFaceHub()


def place_of(name: str) -> str:
    """The address of a hub; nothing is asked of it."""
    if name == "modelscope":
        return os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn"
    from huggingface_hub import constants

    return constants.ENDPOINT


class HuggingFaceHub:
    """Hugging Face's hub, or what answers at HF_ENDPOINT."""

    def __init__(self) -> None:
        from huggingface_hub import HfApi, constants, get_token
        from huggingface_hub.utils import disable_progress_bars

        self.place = constants.ENDPOINT
        self._token = get_token()
        if not self._token:
            raise ConfigError("no token for Hugging Face: set HF_TOKEN, or run `hf auth login`")
        self._api = HfApi(endpoint=self.place, token=self._token)
        if self.place != "https://huggingface.co":
            constants.HF_HUB_DISABLE_XET = True  # other hubs take Git LFS alone
        disable_progress_bars()

    @contextlib.contextmanager
    def _asking(self, repository: str) -> Iterator[None]:
        """One line for whatever the client says."""
        from huggingface_hub import errors

        try:
            yield
        except QwqError:
            raise
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            raise _problem(self.place, repository, status, scrubbed(str(error), self._token), "HF_TOKEN") from None
        except (errors.HFValidationError, ValueError) as error:
            raise ConfigError(f"{repository}: {scrubbed(str(error), self._token)}: write it as OWNER/NAME") from None
        except (errors.HTTPError, RuntimeError, OSError) as error:
            raise _unreachable(self.place, repository, scrubbed(_whole(error), self._token)) from None

    def is_private(self, repository: str) -> bool | None:
        from huggingface_hub import errors

        with self._asking(repository):
            try:
                return bool(self._api.repo_info(repository).private)
            except errors.RepositoryNotFoundError as error:
                if error.response.status_code == 401 and not self._token_is_good():
                    raise
                return None

    def _token_is_good(self) -> bool:
        from huggingface_hub import errors

        try:
            self._api.whoami()
        except errors.HfHubHTTPError:
            return False
        return True

    def create(self, repository: str, licence: str, *, public: bool) -> None:
        with self._asking(repository):
            self._api.create_repo(repository, private=True, exist_ok=True)

    def upload(self, repository: str, folder: Path, names: list[str], say: Say) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._asking(repository):
            additions = [CommitOperationAdd(name, str(folder / name)) for name in names]
            for number, addition in enumerate(additions, 1):
                say(f"{number}/{len(additions)} {addition.path_in_repo} ({addition.upload_info.size:,} bytes)")
                self._api.preupload_lfs_files(repository, [addition], free_memory=False)
            stale = sorted(self._pushed_before(repository) - set(names))
            deletions = [CommitOperationDelete(name) for name in stale]
            self._api.create_commit(repository, [*additions, *deletions], commit_message=MESSAGE)

    def _pushed_before(self, repository: str) -> set[str]:
        """Files of an earlier release that are still there: its checksums name them."""
        from huggingface_hub import errors, hf_hub_download

        try:
            sums = hf_hub_download(repository, SUMS, endpoint=self.place, token=self._token)
        except errors.EntryNotFoundError:
            return set()
        there = {item.path for item in self._api.list_repo_tree(repository, recursive=True)}
        return set(read_sums(Path(sums))) & there

    def differing(self, repository: str, folder: Path, names: list[str]) -> list[str]:
        with self._asking(repository):
            there = {item.path: item for item in self._api.list_repo_tree(repository, recursive=True)}
        return [name for name in names if not _is_same(there.get(name), folder / name)]

    def publish(self, repository: str) -> None:
        with self._asking(repository):
            self._api.update_repo_settings(repository, visibility="public")


def _is_same(item: Any, path: Path) -> bool:
    """Whether a file of a repository's listing has this content: large ones are named by SHA-256,
    small ones as git does.
    """
    if item is None or getattr(item, "size", None) != path.stat().st_size:
        return False
    lfs = getattr(item, "lfs", None)
    return sha256_of(path) == lfs.sha256 if lfs else git_blob_of(path) == item.blob_id


class ModelScopeHub:
    """ModelScope, or what answers at MODELSCOPE_ENDPOINT."""

    def __init__(self) -> None:
        self._api = modelscope_api()
        config = self._api.legacy
        self.place, self._token = config.endpoint, config.token
        if not self._token:
            raise ConfigError("no token for ModelScope: set MODELSCOPE_API_TOKEN, or run `modelscope login`")

    @contextlib.contextmanager
    def _asking(self, repository: str) -> Iterator[None]:
        from modelscope_hub import HubError, InvalidParameter

        try:
            yield
        except QwqError:
            raise
        except InvalidParameter as error:
            raise ConfigError(f"{repository}: {scrubbed(str(error), self._token)}: write it as OWNER/NAME") from None
        except HubError as error:
            status = getattr(error, "status_code", None)
            raise _problem(
                self.place, repository, status, scrubbed(str(error), self._token), "MODELSCOPE_API_TOKEN"
            ) from None
        except Exception as error:  # noqa: BLE001  # the client lets through whatever its HTTP library raises
            raise _unreachable(self.place, repository, scrubbed(_whole(error), self._token)) from None

    def is_private(self, repository: str) -> bool | None:
        from modelscope_hub import NotExistError

        with self._asking(repository):
            try:
                info = self._api.legacy.get_repo_info(repository, "model")
            except NotExistError:
                return None
        return int(info.get("Visibility", 1)) != PUBLIC

    def create(self, repository: str, licence: str, *, public: bool) -> None:
        with self._asking(repository):
            visibility = "public" if public else "private"
            self._api.create_repo(repository, "model", visibility=visibility, license=licence)

    def upload(self, repository: str, folder: Path, names: list[str], say: Say) -> None:
        # Not the client's upload_folder: that one makes a missing repository, and makes it public.
        with self._asking(repository):
            actions = []
            for number, name in enumerate(names, 1):
                say(f"{number}/{len(names)} {name} ({(folder / name).stat().st_size:,} bytes)")
                actions.append(self._stored(repository, folder, name))
            actions += [{"action": "delete", "path": name} for name in self._stale(repository, names)]
            self._api.legacy.create_commit(repository, "model", actions, MESSAGE)

    def _stored(self, repository: str, folder: Path, name: str) -> dict[str, Any]:
        """The commit's action for one file; a large one is in the hub's storage then."""
        path = folder / name
        size = path.stat().st_size
        if not _is_large(path, size):
            content = base64.b64encode(path.read_bytes()).decode()
            whole = {"type": "normal", "sha256": "", "content": content, "encoding": "base64"}
        else:
            digest = sha256_of(path)
            wanting = self._api.legacy.validate_blobs(repository, "model", [{"oid": digest, "size": size}])
            if address := wanting.get(digest):
                with path.open("rb") as file:
                    self._api.legacy.upload_blob(address, file, size)
            whole = {"type": "lfs", "sha256": digest, "content": "", "encoding": ""}
        return {"action": "create", "path": name, "size": size} | whole

    def _stale(self, repository: str, names: list[str]) -> list[str]:
        """Files of an earlier release that are still there."""
        there = {item.path for item in self._api.list_repo_files(repository, "model")}
        if SUMS not in there:
            return []
        with tempfile.TemporaryDirectory() as place:
            sums = self._api.download_file(repository, "model", SUMS, local_dir=place)
            return sorted((set(read_sums(Path(sums))) & there) - set(names))

    def differing(self, repository: str, folder: Path, names: list[str]) -> list[str]:
        with self._asking(repository):
            there = {item.path: item.sha256 for item in self._api.list_repo_files(repository, "model")}
        return [name for name in names if there.get(name) != sha256_of(folder / name)]

    def publish(self, repository: str) -> None:
        if self.is_private(repository):
            raise ConfigError(
                f"{repository} is complete and private: ModelScope makes a repository public on its own page alone"
            )


MOST_INLINE_BYTES = 256 << 10
PUBLIC = 5  # ModelScope's number for a repository that everyone sees


def _is_large(path: Path, size: int) -> bool:
    """Whether ModelScope keeps the file in its storage; it reads cards and configurations."""
    from modelscope_hub.constants import MODEL_LFS_SUFFIX, UPLOAD_INLINE_METADATA_PATHS

    if path.name.lower() in UPLOAD_INLINE_METADATA_PATHS:
        return False
    return size > MOST_INLINE_BYTES or path.suffix.lower() in MODEL_LFS_SUFFIX


def _whole(error: BaseException) -> str:
    """What an error and those behind it say: a client wraps the cause of a failed upload."""
    texts = []
    current: BaseException | None = error
    while current is not None:
        texts.append(f"{type(current).__name__}: {current}")
        current = current.__cause__
    return "; ".join(texts)[:300]


def _problem(place: str, repository: str, status: int | None, text: str, variable: str) -> QwqError:
    if status in (401, 403):
        return ConfigError(
            f"{place} refuses the token for {repository} ({status}): give {variable} with the right to write there"
        )
    if status == 404:
        return ConfigError(f"{place} has no place for {repository} ({text[:200]}): check the owner's name")
    if status is not None and 400 <= status < 500 and status not in (408, 409, 412, 429):
        return ConfigError(f"{place} refuses {repository} ({status}: {text[:200]}): mend that and push again")
    return _unreachable(place, repository, text)


def _unreachable(place: str, repository: str, text: str) -> InfraError:
    return InfraError(
        f"{place} did not take all of {repository} ({text[:300]}): run the same command again; what is uploaded stays"
    )
