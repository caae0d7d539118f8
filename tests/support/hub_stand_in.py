"""Stand-ins of the two hubs' HTTP APIs on loopback: repositories in memory, and a log of what was
asked.

Hugging Face: validate-yaml, whoami, create, preupload, Git LFS batch with parts, commit, tree,
resolve. ModelScope: create, info, LFS batch, blob, commit, files, download.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from qwq.release.card_rules import faults_of

SOURCE = Path(__file__).resolve().parents[2] / "src"
TOKEN = "hf_" + "T" * 34
MS_TOKEN = "ms-01234567-89ab-cdef-0123-456789abcdef"
PART_BYTES = 1 << 20  # a file above this comes in parts
LFS_SUFFIXES = (".safetensors", ".gguf", ".html")


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[list[str]] = field(default_factory=list)  # the paths that each commit changed


@dataclass
class Hubs:
    """Both hubs' state. `fail_after`: this many requests are answered, then connections drop."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    fail_after: int | None = None
    delay_s: float = 0.0
    damage: str = ""  # a path whose download is damaged
    cut_after: int = 0  # the first download that is longer ends after so many bytes
    ranges: list[tuple[str, str]] = field(default_factory=list)  # path and Range header of downloads
    lock: Any = field(default_factory=threading.RLock)

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method not in ("GET", "HEAD")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hubs: Hubs

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    # -- plumbing ----------------------------------------------------------------------------------

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}
        try:
            self.body = self._read()
        except ConnectionError:
            return
        hubs = self.hubs
        with hubs.lock:
            hubs.asked.append((method, path))
            if hubs.fail_after is not None and len(hubs.asked) > hubs.fail_after:
                self.close_connection = True
                return
            if hubs.delay_s:
                threading.Event().wait(hubs.delay_s)
            for pattern, verb, name in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and verb in (method, "GET" if method == "HEAD" else method):
                    getattr(self, name)(*match.groups())
                    return
            self._json({"error": f"no route {method} {path}"}, 404)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        if len(data) < length:
            raise ConnectionError("cut short")
        return data

    def _send(self, status: int, data: bytes, **headers: str) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except ConnectionError:
            self.close_connection = True

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    @property
    def _base(self) -> str:
        return f"http://{self.headers['Host']}"

    def _allowed(self, token: str = TOKEN) -> bool:
        if self.headers.get("Authorization") == f"Bearer {token}":
            return True
        self._json({"error": "Invalid username or password."}, 401)
        return False

    def _repository(self, name: str, *, write: bool = False) -> Repository | None:
        repository = self.hubs.repositories.get(name)
        if (write or repository is None or repository.private) and not self._allowed():
            return None
        if repository is None:
            self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        return repository

    # -- Hugging Face ------------------------------------------------------------------------------

    def validate(self) -> None:
        faults = faults_of(json.loads(self.body)["content"])
        self._send(400 if faults else 200, "\n".join(faults).encode() or b"{}", Content_Type="text/plain")

    def whoami(self) -> None:
        if self._allowed():
            self._json({"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        if not self._allowed():
            return
        data = json.loads(self.body)
        name = f"{data.get('organization') or 'me'}/{data['name']}"
        if name in self.hubs.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self._base}/{name}"}, 409)
            return
        private = data.get("visibility") == "private" or bool(data.get("private"))
        self.hubs.repositories[name] = Repository(private)
        self._json({"url": f"{self._base}/{name}", "name": name})

    def info(self, name: str) -> None:
        if repository := self._repository(name):
            siblings = [{"rfilename": path} for path in repository.files]
            sha = hashlib.sha1(repr(repository.commits).encode()).hexdigest()
            self._json(
                {
                    "id": name,
                    "modelId": name,
                    "private": repository.private,
                    "sha": sha,
                    "siblings": siblings,
                    "tags": [],
                }
            )

    def settings(self, name: str) -> None:
        if repository := self._repository(name, write=True):
            data = json.loads(self.body)
            repository.private = data.get("visibility", "private" if data.get("private") else "public") == "private"
            self._json({"private": repository.private})

    def preupload(self, name: str) -> None:
        if repository := self._repository(name, write=True):
            files = []
            for file in json.loads(self.body)["files"]:
                large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > PART_BYTES
                there = repository.files.get(file["path"])
                oid = None if there is None else self._oid(repository, file["path"])
                mode = "lfs" if large else "regular"
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._json({"files": files})

    def _oid(self, repository: Repository, path: str) -> str:
        data = repository.files[path]
        return hashlib.sha256(data).hexdigest() if path in repository.lfs else git_hash(data)

    def lfs_batch(self, name: str) -> None:
        if self._repository(name, write=True) is None:
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            oid, size = item["oid"], item["size"]
            entry: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hubs.blobs:
                verify = {"href": f"{self._base}/{name}.git/info/lfs/verify"}
                upload: dict[str, Any] = {"href": f"{self._base}/storage/{oid}"}
                if size > PART_BYTES:
                    numbers = range(1, -(-size // PART_BYTES) + 1)
                    upload["href"] = f"{self._base}/complete/{oid}"
                    upload["header"] = {"chunk_size": str(PART_BYTES)} | {
                        f"{n:05d}": f"{self._base}/storage/{oid}/{n}" for n in numbers
                    }
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def storage(self, oid: str, number: str | None = None) -> None:
        if number is None:
            if hashlib.sha256(self.body).hexdigest() != oid:
                self._json({"error": "another checksum"}, 400)
                return
            self.hubs.blobs[oid] = self.body
        else:
            self.hubs.parts.setdefault(oid, {})[int(number)] = self.body
        self._send(200, b"", ETag=f'"{hashlib.md5(self.body).hexdigest()}"')

    def complete(self, oid: str) -> None:
        parts = self.hubs.parts.get(oid, {})
        data = b"".join(parts[n] for n in sorted(parts))
        etags = [p["etag"].strip('"') for p in json.loads(self.body)["parts"]]
        if hashlib.sha256(data).hexdigest() != oid or etags != [
            hashlib.md5(parts[n]).hexdigest() for n in sorted(parts)
        ]:
            self._json({"error": "parts do not make the file"}, 400)
            return
        self.hubs.blobs[oid] = data
        self._json({"success": True})

    def verify(self, name: str) -> None:
        there = json.loads(self.body)["oid"] in self.hubs.blobs
        self._json({"success": there}, 200 if there else 404)

    def commit(self, name: str) -> None:
        repository = self._repository(name, write=True)
        if repository is None:
            return
        files, lfs, changed = dict(repository.files), set(repository.lfs), []
        for line in self.body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                lfs.discard(value["path"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hubs.blobs:
                    self._json({"error": f"no such object {value['oid']}"}, 400)
                    return
                files[value["path"]] = self.hubs.blobs[value["oid"]]
                lfs.add(value["path"])
            elif item["key"] == "deletedFile":
                files.pop(value["path"])
            if item["key"] != "header":
                changed.append(value["path"])
        if "README.md" in files and (faults := faults_of(files["README.md"].decode())):
            self._json({"error": faults[0]}, 400)
            return
        repository.files, repository.lfs = files, lfs
        repository.commits.append(changed)
        oid = hashlib.sha1(repr(repository.commits).encode()).hexdigest()
        self._json({"commitUrl": f"{self._base}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def tree(self, name: str) -> None:
        if repository := self._repository(name):
            rows = []
            for path, data in sorted(repository.files.items()):
                row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
                if path in repository.lfs:
                    sha256 = hashlib.sha256(data).hexdigest()
                    row["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
                rows.append(row)
            self._json(rows)

    def resolve(self, name: str, path: str) -> None:
        repository = self._repository(name)
        if repository is None:
            return
        if path not in repository.files:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        data = repository.files[path]
        etag = f'"{self._oid(repository, path)}"'
        commit = hashlib.sha1(repr(repository.commits).encode()).hexdigest()
        self._bytes(path, data, ETag=etag, X_Repo_Commit=commit)

    def _bytes(self, path: str, data: bytes, **headers: str) -> None:
        """A file or the part of it that a Range header asks for."""
        whole = len(data)
        if self.command == "GET":
            self.hubs.ranges.append((path, self.headers.get("Range", "")))
        if self.command == "GET" and 0 < self.hubs.cut_after < whole:
            cut, self.hubs.cut_after = self.hubs.cut_after, 0
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(whole))
            self.end_headers()
            self.wfile.write(data[:cut])
            self.close_connection = True
            return
        if self.hubs.damage == path:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if start and self.command == "GET":
            end = int(start[2]) + 1 if start[2] else whole
            piece = data[int(start[1]) : end]
            span = f"bytes {start[1]}-{int(start[1]) + len(piece) - 1}/{whole}"
            self._send(206, piece, Content_Range=span, Accept_Ranges="bytes", **headers)
        else:
            self._send(200, data, Accept_Ranges="bytes", **headers)

    # -- ModelScope --------------------------------------------------------------------------------

    def _ms_repository(self, name: str) -> Repository | None:
        repository = self.hubs.repositories.get(f"modelscope/{name}")
        if repository is None:
            self._json({"Code": 10010205001, "Success": False, "Message": "not found"}, 404)
        elif repository.private and not self._allowed(MS_TOKEN):
            return None
        return repository

    def ms_create(self) -> None:
        if not self._allowed(MS_TOKEN):
            return
        data = json.loads(self.body)
        name = f"{data['Path']}/{data['Name']}"
        if f"modelscope/{name}" in self.hubs.repositories:
            self._json({"Code": 10010101001, "Success": False, "Message": "already exists"}, 400)
            return
        self.hubs.repositories[f"modelscope/{name}"] = Repository(private=data["Visibility"] != 5)
        self._json({"Code": 200, "Success": True, "Data": {"Id": 1, "Path": data["Path"], "Name": data["Name"]}})

    def ms_info(self, name: str) -> None:
        if repository := self._ms_repository(name):
            owner, _, short = name.partition("/")
            data = {"Path": owner, "Name": short, "Visibility": 1 if repository.private else 5}
            self._json({"Code": 200, "Success": True, "Data": data})

    def ms_batch(self, name: str) -> None:
        if self._ms_repository(name) is None:
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hubs.blobs:
                entry["actions"] = {"upload": {"href": f"{self._base}/storage/{item['oid']}"}}
            objects.append(entry)
        self._json({"Code": 200, "Success": True, "Data": {"objects": objects}})

    def ms_commit(self, name: str) -> None:
        repository = self._ms_repository(name)
        if repository is None:
            return
        changed = []
        for action in json.loads(self.body)["actions"]:
            path = action["path"]
            changed.append(path)
            if action["action"] == "delete":
                repository.files.pop(path, None)
            elif action["type"] == "lfs":
                if action["sha256"] not in self.hubs.blobs:
                    self._json({"Code": 400, "Success": False, "Message": f"no blob for {path}"}, 400)
                    return
                repository.files[path] = self.hubs.blobs[action["sha256"]]
            else:
                repository.files[path] = base64.b64decode(action["content"])
        repository.commits.append(changed)
        self._json({"Code": 200, "Success": True, "Data": {"oid": str(len(repository.commits))}})

    def ms_files(self, name: str) -> None:
        if repository := self._ms_repository(name):
            files = [
                {
                    "Path": path, "Name": path.rpartition("/")[2], "Type": "blob", "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(), "CommittedDate": 1,
                }
                for path, data in sorted(repository.files.items())
            ]  # fmt: skip
            self._json({"Code": 200, "Success": True, "Data": {"Files": files}})

    def ms_download(self, name: str) -> None:
        if repository := self._ms_repository(name):
            path = self.query["FilePath"]
            self._bytes(path, repository.files[path])


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (r"/api/validate-yaml", "POST", "validate"),
    (r"/api/whoami-v2", "GET", "whoami"),
    (r"/api/repos/create", "POST", "create"),
    (rf"/api/models/{NAME}/preupload/main", "POST", "preupload"),
    (rf"/api/models/{NAME}/commit/main", "POST", "commit"),
    (rf"/api/models/{NAME}/settings", "PUT", "settings"),
    (rf"/api/models/{NAME}/tree/\w+(?:/.*)?", "GET", "tree"),
    (rf"/api/models/{NAME}(?:/revision/\w+)?", "GET", "info"),
    (rf"/{NAME}\.git/info/lfs/objects/batch", "POST", "lfs_batch"),
    (rf"/{NAME}\.git/info/lfs/verify", "POST", "verify"),
    (rf"/{NAME}/resolve/\w+/(.+)", "GET", "resolve"),
    (r"/storage/([0-9a-f]{64})(?:/(\d+))?", "PUT", "storage"),
    (r"/complete/([0-9a-f]{64})", "POST", "complete"),
    (r"/api/v1/models", "POST", "ms_create"),
    (rf"/api/v1/models/{NAME}/repo/files", "GET", "ms_files"),
    (rf"/api/v1/models/{NAME}/repo", "GET", "ms_download"),
    (rf"/api/v1/models/{NAME}", "GET", "ms_info"),
    (rf"/api/v1/repos/models/{NAME}/info/lfs/objects/batch", "POST", "ms_batch"),
    (rf"/api/v1/repos/models/{NAME}/commit/\w+", "POST", "ms_commit"),
]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that was killed


@contextmanager
def serving(hubs: Hubs | None = None) -> Iterator[tuple[str, Hubs]]:
    """(address, state) of both stand-ins, in this process."""
    hubs = hubs or Hubs()
    handler = type("BoundHandler", (Handler,), {"hubs": hubs})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hubs
    finally:
        server.shutdown()
        server.server_close()


def environment(place: Path, address: str, **more: str) -> dict[str, str]:
    """The environment of a command that knows one hub, keeps all it has under `place`, and has no
    token but those given.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MODELSCOPE", "HUGGING"))}
    own = {
        "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": address,
        "MODELSCOPE_ENDPOINT": address,
        "HF_HOME": str(place / "hf"),
        "MODELSCOPE_HOME": str(place / "ms"),
        "MODELSCOPE_CACHE": str(place / "ms-cache"),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    return clean | own | more


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
