"""Dockerfile, compose files and units name what is there: files, commands, options, extras."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from qwq.cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {
    "FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD", "VOLUME",
}  # fmt: skip


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    out: dict[str, list[tuple[str, str]]] = {}
    for name, arguments in instructions():
        if name == "FROM":
            out[arguments.split(" AS ")[1]] = []
        elif out:
            out[list(out)[-1]].append((name, arguments))
    return out


def context(path: str) -> bool:
    """Whether .dockerignore lets a path into the build."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    return any(path == k or path.startswith(f"{k}/") for k in kept)


def test_the_dockerfile_has_known_instructions_and_copies_what_is_there():
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert list(stages()) == ["build", "sandbox", "app"]  # `docker build .` makes the last one
    for stage in stages().values():
        for name, arguments in stage:
            if name == "COPY" and not arguments.startswith("--from="):
                *sources, _ = arguments.split()
                assert all((ROOT / s).exists() and context(s) for s in sources), arguments
            if name == "COPY" and arguments.startswith("--from="):
                assert arguments.split()[0].removeprefix("--from=") in stages()


def test_what_a_link_of_the_sources_points_to_is_copied_too():
    copied = {s for name, a in stages()["build"] if name == "COPY" for s in a.split()[:-1]}
    links = [p for p in (ROOT / "src").rglob("*") if p.is_symlink()]
    targets = {p.resolve().relative_to(ROOT).as_posix() for p in links}
    assert "recipes" in targets and all(any(t == c or t.startswith(f"{c}/") for c in copied) for t in targets)


def test_shell_lines_of_the_dockerfile_parse():
    for name, arguments in instructions():
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", arguments], check=True)


@pytest.mark.parametrize("stage", ["sandbox", "app"])
def test_nothing_runs_as_root_and_the_entry_is_qwq(stage):
    words = dict(stages()[stage])  # the last of each instruction
    assert words["USER"] == "qwq" and words["ENTRYPOINT"] == '["qwq"]'


def test_the_extras_are_those_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r'ARG EXTRAS="([\w,]+)"', (ROOT / "Dockerfile").read_text())
    assert set(named.split(",")) <= set(extras)


def test_no_key_and_no_run_reaches_the_image():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not any(context(path) for path in (".env", "runs/tiny/recipe.toml", ".git/config", "secrets.toml"))


def compose(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def commands() -> list[list[str]]:
    """Every command of the compose files and units, without `qwq`."""
    found = [
        s["command"]
        for f in ("compose.yaml", "deploy/compose.gpu.yaml")
        for s in compose(f)["services"].values()
        if "command" in s
    ]
    for unit in (ROOT / "deploy").glob("*.service"):
        (line,) = re.findall(r"^ExecStart=\S+/qwq (.*)$", unit.read_text(), re.MULTILINE)
        found.append(shlex.split(line))
    found.append(["sandbox", "serve", "--host", "0.0.0.0"])
    assert found[-1] == json.loads(dict(stages()["sandbox"])["CMD"])
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_is_one_that_qwq_takes(command):
    filled = [re.sub(r"\$\{\w+(?::-([^}]*))?\}", lambda m: m[1] or "MODEL", word) for word in command]
    app.parse_args(filled, exit_on_error=False, print_error=False)


def test_services_of_the_compose_file():
    services = compose("compose.yaml")["services"]
    assert set(services) == {"server", "sandbox", "trainer"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"], name
        assert service["build"]["target"] in stages() and (ROOT / service["build"]["context"]).is_dir()
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert services["trainer"]["profiles"] == ["train"] and services["trainer"]["restart"] == "no"
    assert "QWQ_API_KEY:?" in services["server"]["environment"]["QWQ_API_KEY"]
    assert set(compose("deploy/compose.gpu.yaml")["services"]) <= set(services)


@pytest.mark.parametrize("unit", sorted((ROOT / "deploy").glob("*.service")), ids=lambda p: p.name)
def test_units_are_accepted_by_systemd(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/qwq/bin/qwq", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
