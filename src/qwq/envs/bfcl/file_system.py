"""GorillaFileSystem: a tree of directories and files, and a shell's commands on the current
directory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

from qwq.envs.bfcl.base import CallRefused, Json, World

FORBIDDEN = set('|/\\?%*:"><')
UNITS = ("B", "KB", "MB", "GB", "TB")
# In long-context tasks every directory without directories in it also holds these empty files.
IMAGES = """
344822349461074042 8219547643081662353 5421509146842474663 185391401034246046 6824007961180780019
2994974694593273051 2537728455072851196 2164918946836800275 1745133864906284051 7707563551789432679
8190489168166590809 2385660725381355820 4771211633166048374 3443718094055823214 6838087561356843690
605952633285970710 6341510244180179744 4119241148692325954 5651066601163181955 3747091333751395055
4623743619379194431 5072742684386583099 1978458056362464778 3090346927968358019 7193806748674265039
7169516574395086720 8618240224293913315 5514683852355062444 8749630317332649147 1912245706439755759
"""
Tree = dict[str, Any]  # name -> Tree of a directory, or the text of a file


class GorillaFileSystem(World):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.root_name, self.root = "/", {}
        for name, node in (config.get("root") or {}).items():
            self.root_name, self.root = name, _tree(node["contents"])
            break
        if config.get("long_context"):
            _add_images(self.root)
        self._path: list[str] = []

    # -- where we are ------------------------------------------------------------------------------

    def _here(self) -> Tree:
        tree = self.root
        for name in self._path:
            tree = tree[name]
        return tree

    def _at(self, path: str, command: str) -> tuple[list[str], Tree]:
        """Names and tree of a directory, from here or, with a leading slash, from the root."""
        names = [] if path.startswith("/") else list(self._path)
        for name in [n for n in path.strip("/").split("/") if n not in ("", ".")]:
            names.append(name)
        tree = self.root
        for name in names:
            if not isinstance(tree.get(name), dict):
                raise CallRefused(f"{command}: {path}: no such directory")
            tree = tree[name]
        return names, tree

    def _file(self, name: str, command: str) -> str:
        content = self._here().get(name)
        if content is None:
            raise CallRefused(f"{command}: {name}: no such file")
        if isinstance(content, dict):
            raise CallRefused(f"{command}: {name}: is a directory")
        return content

    @staticmethod
    def _check_name(name: str, command: str) -> None:
        if FORBIDDEN & set(name):
            raise CallRefused(f"{command}: {name}: a name holds none of {' '.join(sorted(FORBIDDEN))}")

    def pwd(self) -> Json:
        return {"current_working_directory": "/" + "/".join([self.root_name, *self._path])}

    def ls(self, a: bool = False) -> Json:
        return {"current_directory_content": [n for n in self._here() if a or not n.startswith(".")]}

    def cd(self, folder: str) -> Json:
        folder = folder.rstrip("/") or "/"
        if folder == "..":
            if not self._path:
                raise CallRefused("cd: this is the root, there is nothing above it")
            self._path.pop()
            return {}
        if "/" in folder and folder != "/":
            raise CallRefused(f"cd: {folder}: one folder at a time, no paths")
        self._path, _ = self._at(folder, "cd")
        return {"current_working_directory": self._path[-1] if self._path else self.root_name}

    # -- making and reading ------------------------------------------------------------------------

    def mkdir(self, dir_name: str) -> None:
        self._new(dir_name, {}, "mkdir")

    def touch(self, file_name: str) -> None:
        self._new(file_name, "", "touch")

    def _new(self, name: str, content: Any, command: str) -> None:
        self._check_name(name, command)
        if name in self._here():
            raise CallRefused(f"{command}: {name}: exists already")
        self._here()[name] = content

    def echo(self, content: str, file_name: str | None = None) -> Json | None:
        if not file_name:
            return {"terminal_output": content}
        self._check_name(file_name, "echo")
        self._file(file_name, "echo")
        self._here()[file_name] = content
        return None

    def cat(self, file_name: str) -> Json:
        self._check_name(file_name, "cat")
        return {"file_content": self._file(file_name, "cat")}

    def find(self, path: str = ".", name: str | None = None) -> Json:
        _, tree = self._at(path, "find")

        def below(directory: Tree, base: str) -> Iterator[str]:
            for entry, content in directory.items():
                if name is None or name in entry:
                    yield f"{base}/{entry}"
                if isinstance(content, dict):
                    yield from below(content, f"{base}/{entry}")

        return {"matches": list(below(tree, path.rstrip("/")))}

    def wc(self, file_name: str, mode: str = "l") -> Json:
        kinds: dict[str, tuple[str, Callable[[str], Sized]]] = {
            "l": ("lines", str.splitlines), "w": ("words", str.split), "c": ("characters", str),
        }  # fmt: skip
        if mode not in kinds:
            raise CallRefused(f"wc: {mode}: the modes are l, w and c")
        kind, parts = kinds[mode]
        return {"count": len(parts(self._file(file_name, "wc"))), "type": kind}

    def sort(self, file_name: str) -> Json:
        return {"sorted_content": "\n".join(sorted(self._file(file_name, "sort").splitlines()))}

    def grep(self, file_name: str, pattern: str) -> Json:
        return {"matching_lines": [line for line in self._file(file_name, "grep").splitlines() if pattern in line]}

    def tail(self, file_name: str, lines: int = 10) -> Json:
        content = self._file(file_name, "tail").splitlines()
        return {"last_lines": "\n".join(content[-min(lines, len(content)) :])}

    def diff(self, file_name1: str, file_name2: str) -> Json:
        first, second = (self._file(n, "diff").splitlines() for n in (file_name1, file_name2))
        changed = [f"- {a}\n+ {b}" for a, b in zip(first, second, strict=False) if a != b]
        return {"diff_lines": "\n".join(changed)}

    def du(self, human_readable: bool = False) -> Json:
        size: float = _size(self._here())
        if not human_readable:
            return {"disk_usage": f"{size} bytes"}
        for unit in UNITS:
            if size < 1024:
                return {"disk_usage": f"{size:.2f} {unit}"}
            size /= 1024
        return {"disk_usage": f"{size:.2f} PB"}

    # -- moving and removing -----------------------------------------------------------------------

    def mv(self, source: str, destination: str) -> Json:
        where, place, name = self._target(source, destination, "mv")
        place[name] = self._here().pop(source)
        return {"result": f"{source} moved to {where}"}

    def cp(self, source: str, destination: str) -> Json:
        where, place, name = self._target(source, destination, "cp")
        place[name] = copy.deepcopy(self._here()[source])
        return {"result": f"{source} copied to {where}"}

    def _target(self, source: str, destination: str, command: str) -> tuple[str, Tree, str]:
        """Where a moved or copied entry goes: its path in words, the directory, its name there."""
        here = self._here()
        if source not in here:
            raise CallRefused(f"{command}: {source}: no such file or directory")
        if "/" in destination:
            raise CallRefused(f"{command}: {destination}: a name, no path")
        if destination not in here:
            return destination, here, destination
        inside = here[destination]
        if not isinstance(inside, dict):
            raise CallRefused(f"{command}: {destination}: a file of this name exists")
        if source in inside:
            raise CallRefused(f"{command}: {destination}/{source}: exists already")
        if inside is here[source]:
            raise CallRefused(f"{command}: {source}: cannot go into itself")
        return f"{destination}/{source}", inside, source

    def rm(self, file_name: str) -> Json:
        if self._here().pop(file_name, None) is None:
            raise CallRefused(f"rm: {file_name}: no such file or directory")
        return {"result": f"{file_name} removed"}

    def rmdir(self, dir_name: str) -> Json:
        content = self._here().get(dir_name)
        if not isinstance(content, dict):
            raise CallRefused(f"rmdir: {dir_name}: no such directory")
        if content:
            raise CallRefused(f"rmdir: {dir_name}: not empty")
        del self._here()[dir_name]
        return {"result": f"{dir_name} removed"}


def _tree(contents: Mapping[str, Any]) -> Tree:
    return {
        name: _tree(node["contents"]) if node["type"] == "directory" else node["content"]
        for name, node in contents.items()
    }


def _add_images(tree: Tree) -> None:
    directories = [content for content in tree.values() if isinstance(content, dict)]
    for directory in directories:
        _add_images(directory)
    if not directories:
        tree |= {f"image_{number}.jpg": "" for number in IMAGES.split()}


def _size(content: Any) -> int:
    return sum(map(_size, content.values())) if isinstance(content, dict) else len(content.encode())
