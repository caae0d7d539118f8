"""`qwq cluster up|status|down`: the processes of a run whose RL samples on engines over HTTP."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from qwq.cli.overrides import Overrides, with_seed

if TYPE_CHECKING:
    from qwq.cluster.group import ProcessGroup, ProcessSpec
    from qwq.config import Recipe

cluster_app = App(name="cluster", help="Start, look at and end the processes of a run: engines, trainer, sandboxes.")


@cluster_app.command
def up(
    recipe: Path,
    *,
    engines: int = 2,
    model: str | None = None,
    processes: int | None = None,
    sandboxes: int = 0,
    hosts: str = "",
    remote: str = "ssh {host} {command}",
    qwq: str | None = None,
    port: int = 8100,
    seed: int | None = None,
    runs: Path = Path("runs"),
    overrides: Overrides,
) -> int:
    """Start engines, wait until they answer, and start the trainer; after that, start again only
    what is gone.

    The trainer is `qwq train RECIPE` on these engines. All keep running when this command ends.

    Parameters
    ----------
    recipe
        TOML file, or the name of a recipe that comes with qwq; its fields can be set by dotted
        keys.
    engines
        How many `qwq serve MODEL --rollout-engine`.
    model
        Folder that they start from, of the run's shape and tokenizer; default: the recipe's
        model.path.
    processes
        Processes of the trainer, on this machine.
    sandboxes
        How many `qwq sandbox serve`; the trainer judges in its own jail, these are for others.
    hosts
        Where engines run, in turn, separated by commas; default: this machine.
    remote
        Shell command that runs {command} on {host}; used with --hosts.
    qwq
        Command that starts qwq on the hosts; default: this one's.
    port
        Of the first server; each further one has the next.
    seed
        Seed of the run.
    runs
        Folder that holds the runs; hosts must see it under the same path.
    """
    from qwq.config import load_recipe

    loaded = load_recipe(recipe, with_seed(overrides, seed))
    group = _group(runs / loaded.run_name)
    own = qwq or shlex.join([sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())"])
    places = [h for h in hosts.split(",") if h]
    parts = _servers(own, _model(loaded, model, recipe), engines, sandboxes, places, remote, port)
    words = _train(recipe, runs, overrides, seed, processes, parts)
    finished = bool((results := group.folder.results()) and results["finished"])
    started = group.up([*parts, *([] if finished else [_spec("trainer", f"{own} {shlex.join(words)}")])])
    print(f"started: {', '.join(started) or 'nothing, all runs'}" + ("; the run is finished" if finished else ""))
    print(_further_commands(group))
    return 0


@cluster_app.command
def status(run: Path) -> int:
    """Print the processes of a run, its engines with their leases, and the last step with its lag.

    Status 1 where a process is gone.

    Parameters
    ----------
    run
        The run's folder, such as runs/tiny.
    """
    from qwq.cluster.group import status_lines

    group = _group(run)
    print("\n".join(status_lines(group)))
    return 0 if all(member.alive() for member in group.members()) else 1


@cluster_app.command
def down(run: Path, *, grace_s: float = 60.0) -> int:
    """End the processes of a run, the trainer after its step with its state saved, and no others.

    Parameters
    ----------
    run
        The run's folder, such as runs/tiny.
    grace_s
        Seconds until a process that does not end is killed.
    """
    ended = _group(run).down(grace_s)
    print(f"ended: {', '.join(ended) or 'nothing, none ran'}")
    return 0


def _group(run: Path) -> ProcessGroup:
    from qwq.cluster.group import ProcessGroup
    from qwq.common.run_folder import RunFolder

    return ProcessGroup(RunFolder(run), lambda text: print(text, file=sys.stderr))


def _further_commands(group: ProcessGroup) -> str:
    folder = shlex.quote(str(group.folder))
    return f"status   qwq cluster status {folder}\nend      qwq cluster down {folder}"


def _model(recipe: Recipe, model: str | None, file: Path) -> str:
    from qwq.errors import ConfigError

    if found := model or recipe.model.path:
        return str(Path(found).expanduser().resolve()) if Path(found).expanduser().exists() else found
    command = f"qwq train {shlex.quote(str(file))} --until STAGE"
    raise ConfigError(
        f"{recipe.name} starts from a preset, which engines cannot load: run `{command}` up to the stage before RL, "
        "then give --model RUN/checkpoints/STAGE/final"
    )


def _train(
    recipe: Path,
    runs: Path,
    overrides: dict[str, Any],
    seed: int | None,
    processes: int | None,
    servers: list[ProcessSpec],
) -> list[str]:
    """The trainer's arguments of `qwq`."""
    urls = [server.url for server in servers if server.name.startswith("engine")]
    words = ["train", str(recipe.resolve() if recipe.is_file() else recipe), "--runs", str(runs.resolve())]
    words += [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]
    words += [] if seed is None else ["--seed", str(seed)]
    words += [] if processes is None else ["--processes", str(processes)]
    return [*words, "--rollout.policy=qwq", f"--rollout.endpoints={','.join(urls)}"]


def _spec(name: str, command: str) -> ProcessSpec:
    from qwq.cluster.group import ProcessSpec

    return ProcessSpec(name, command)


def _servers(
    own: str, model: str, engines: int, sandboxes: int, places: list[str], remote: str, port: int
) -> list[ProcessSpec]:
    """Engines on the hosts in turn, sandboxes on this machine."""
    from qwq.cluster.detached import Host
    from qwq.cluster.group import ProcessSpec
    from qwq.errors import ConfigError

    if engines < 1 or sandboxes < 0:
        raise ConfigError(f"--engines {engines} --sandboxes {sandboxes}: give at least 1 and 0")
    parts = []
    for i in range(engines):
        host = Host(places[i % len(places)], remote) if places else Host()
        name = places[i % len(places)].rpartition("@")[2] if places else "127.0.0.1"
        serve = shlex.join(["serve", model, "--rollout-engine", "--no-page", "--host", name, "--port", str(port + i)])
        parts.append(ProcessSpec(f"engine-{i + 1}", f"{own} {serve}", host, f"http://{name}:{port + i}"))
    for i in range(sandboxes):
        at = port + engines + i
        parts.append(ProcessSpec(f"sandbox-{i + 1}", f"{own} sandbox serve --port {at}", url=f"http://127.0.0.1:{at}"))
    return parts
