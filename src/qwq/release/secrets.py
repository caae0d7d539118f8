"""Looks for what must not be published: keys, tokens, files of credentials, paths of a user's home.

Covers file names, texts, and the metadata of safetensors and GGUF files. Not covered: what a
model's weights remember, and a secret in a form that no pattern here knows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qwq.errors import ModelError

FILES = (
    ".env", ".env.*", "*.env", ".netrc", "_netrc", ".npmrc", ".pypirc", "id_rsa*", "id_ed25519*", "id_ecdsa*",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.ovpn", "credentials*", "token", "stored_tokens", ".git",
)  # fmt: skip
PATTERNS = {
    "an access token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "an access token of ModelScope": r"\bms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
    "an API key (sk-...)": r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}",
    "an access token of GitHub": r"\b(?:gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "an access token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an access key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an API key of Google": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@\"'<>{}]+:[^\s/@\"'<>{}]{4,}@[\w.-]+",
    "a key or password": r"(?i)\b[\w-]*(?:api[_-]?key|secret|passwd|password|access[_-]?token|auth[_-]?token)"
    r"[\"']?\s*[=:]\s*[\"'](?=[^\"']*\d)(?=[^\"']*[A-Za-z])[A-Za-z0-9_\-/+=.]{16,}[\"']",
}  # fmt: skip
HOME = re.compile(
    r"(?:/home/|/Users/|[A-Z]:\\+Users\\+)(?!runner\b)[A-Za-z0-9._-]+(?=[/\\\"'\s]|$)|(?<![\w/.-])/root/(?=[\w.])"
)
_SEARCH = [(what, re.compile(pattern)) for what, pattern in PATTERNS.items()]
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
# Vocabularies hold every short word there is, and no text of the user's.
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json")
BINARY = (".safetensors", ".gguf")


def secrets_in(folder: Path, names: Sequence[str]) -> list[str]:
    """What must not be published, as "FILE, line N: what"; a secret itself is never shown."""
    found = []
    for name in names:
        parts = [name, *name.split("/")]
        if any(fnmatch(part, pattern) for part in parts for pattern in FILES):
            found.append(f"{name}: a file of credentials by its name")
        elif not name.endswith(VOCABULARIES):
            found += [f"{name}, {where}: {what}" for where, what in _in_file(folder / name)]
    return found


def _in_file(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix in BINARY:
        for key, text in _metadata(path).items():
            yield from ((f"metadata {key}", what) for what in _in_text(text))
        return
    with path.open("rb") as file:
        if b"\0" in file.read(4096):
            return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        yield from ((f"line {number}", what) for what in _in_text(line))


def _in_text(text: str) -> Iterator[str]:
    own = [value for key in TOKEN_VARIABLES if len(value := os.environ.get(key, "")) >= 8]
    if any(token in text for token in own):
        yield "the access token of this machine"
    yield from (what for what, pattern in _SEARCH if pattern.search(text))
    if HOME.search(text):
        yield "a path of a user's home folder"


def _metadata(path: Path) -> dict[str, str]:
    """The texts in the head of a weights file, without vocabularies."""
    if path.suffix == ".gguf":
        from qwq.model.gguf_file import GGUFFile

        values: dict[str, Any] = dict(GGUFFile.open(path).metadata)
    else:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(min(length, 100 << 20))
        try:
            values = json.loads(head).get("__metadata__") or {}
        except ValueError:
            raise ModelError(f"{path}: its safetensors header cannot be read: fetch or write it again") from None
    return {key: text for key, text in values.items() if isinstance(text, str)}


def without_home(text: str) -> str:
    """The text with paths of home folders shortened to ~."""
    home = str(Path.home())
    if home not in ("/", ""):
        text = re.sub(rf"{re.escape(home)}(?=[/\\\"'\s]|$)", "~", text)
    return HOME.sub(lambda match: "~/" if match[0].endswith("/") else "~", text)


def scrubbed(text: str, *tokens: str | None) -> str:
    """One line of an error's text without tokens."""
    for token in (*tokens, *(os.environ.get(key) for key in TOKEN_VARIABLES)):
        if token and len(token) >= 4:
            text = text.replace(token, "***")
    for _, pattern in _SEARCH[:2]:
        text = pattern.sub("***", text)
    return " ".join(text.split())
