"""`qwq cluster up|watch|status|down`: the processes of a run whose RL samples on engines over
HTTP.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, Parameter

from qwq.cli.overrides import Overrides, with_seed

if TYPE_CHECKING:
    from qwq.cluster.detached import Host
    from qwq.cluster.group import ProcessGroup, ProcessSpec
    from qwq.cluster.ray_group import RayHosts
    from qwq.config import Recipe

cluster_app = App(name="cluster", help="Start, look at and end the processes of a run: engines, trainer, sandboxes.")


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """Which processes, where, and how often each is started again."""

    engines: int = 2
    """How many `qwq serve MODEL --rollout-engine`."""
    model: str | None = None
    """Folder that they start from, of the run's shape and tokenizer; default: the recipe's
    model.path."""
    processes: int | None = None
    """Processes of the trainer, on this machine or on Ray's hosts."""
    sandboxes: int = 0
    """How many `qwq sandbox serve`; the trainer judges in its own jail, these are for others."""
    hosts: str = ""
    """Where engines run, in turn, separated by commas; default: this machine."""
    remote: str = "ssh {host} {command}"
    """Shell command that runs {command} on {host}; used with --hosts."""
    qwq: str | None = None
    """Command that starts qwq on the hosts; default: this one's."""
    launcher: Literal["processes", "ray"] = "processes"
    """processes: on this machine and --hosts; ray: all on the hosts of the Ray cluster at
    RAY_ADDRESS, where Ray finds room."""
    restarts: int = 0
    """Times that each process is started again by itself after it failed: by Ray, or by one more
    process that watches the others."""
    port: int = 8100
    """Of the first server; each further one has the next."""
    seed: int | None = None
    """Seed of the run."""
    runs: Path = Path("runs")
    """Folder that holds the runs; hosts must see it under the same path."""


@cluster_app.command
def up(recipe: Path, *, options: UpOptions = UpOptions(), overrides: Overrides) -> int:
    """Start engines, wait until they answer, and start the trainer; after that, start again only
    what is gone.

    The trainer is `qwq train RECIPE` on these engines. All keep running when this command ends.

    Parameters
    ----------
    recipe
        TOML file, or the name of a recipe that comes with qwq; its fields can be set by dotted
        keys.
    """
    from qwq.config import load_recipe

    loaded = load_recipe(recipe, with_seed(overrides, options.seed))
    group = _group(options.runs / loaded.run_name)
    own = options.qwq or shlex.join([sys.executable, "-c", "import sys; from qwq.cli import main; sys.exit(main())"])
    places = _places(loaded, options)
    parts = _servers(own, _model(loaded, options.model, recipe), options, places)
    finished = bool((results := group.folder.results()) and results["finished"])
    if not finished:
        several = options.processes is not None or loaded.cluster is not None
        words = [*_train(recipe, options, overrides), *_engines_of(group, parts, options.launcher, several=several)]
        parts.append(_spec("trainer", f"{own} {shlex.join(words)}", _place_of_trainer(places, alone=not several)))
    if options.restarts and options.launcher == "processes":
        watched = shlex.join([str(group.folder.path.resolve()), "--restarts", str(options.restarts)])
        parts.append(_spec("watcher", f"{own} cluster watch {watched}"))
    started = group.up(parts)
    print(f"started: {', '.join(started) or 'nothing, all runs'}" + ("; the run is finished" if finished else ""))
    print(_further_commands(group))
    return 0


@cluster_app.command
def watch(run: Path, *, restarts: int = 3) -> int:
    """Start processes of a run again that have ended, until `qwq cluster down`. `qwq cluster up
    --restarts N` starts this as one of them.

    Parameters
    ----------
    run
        The run's folder, such as runs/tiny.
    restarts
        Times that each process is started again.
    """
    from qwq.cluster.restarter import Restarter

    Restarter(_group(run), restarts).run()
    return 0


@cluster_app.command
def status(run: Path) -> int:
    """Print the processes of a run, its engines with their leases, and the last step with its lag.

    Status 1 where a process is gone, or its host cannot be reached.

    Parameters
    ----------
    run
        The run's folder, such as runs/tiny.
    """
    from qwq.cluster.group import status_lines

    lines, all_run = status_lines(_group(run))
    print("\n".join(lines))
    return 0 if all_run else 1


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


def _train(recipe: Path, options: UpOptions, overrides: dict[str, Any]) -> list[str]:
    """The trainer's arguments of `qwq`, but for its engines."""
    words = ["train", str(recipe.resolve() if recipe.is_file() else recipe), "--runs", str(options.runs.resolve())]
    words += [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]
    words += [] if options.seed is None else ["--seed", str(options.seed)]
    words += [] if options.processes is None else ["--processes", str(options.processes)]
    return [*words, "--rollout.policy=qwq"]


def _engines_of(group: ProcessGroup, parts: list[ProcessSpec], launcher: str, *, several: bool) -> list[str]:
    """The trainer's arguments that name its engines, and Ray where that places them or it."""
    from qwq.cluster.registry import ENGINE

    if launcher == "ray":
        return [f"--rollout.endpoints={group.registry.file.resolve()}", *(["--launcher", "ray"] if several else [])]
    return [f"--rollout.endpoints={','.join(p.url for p in parts if p.name.startswith(ENGINE))}"]


def _spec(name: str, command: str, host: Host | RayHosts | None = None) -> ProcessSpec:
    from qwq.cluster.group import ProcessSpec

    return ProcessSpec(name, command) if host is None else ProcessSpec(name, command, host)


def _places(recipe: Recipe, options: UpOptions) -> list[Host] | list[RayHosts]:
    """Where engines run, in turn. ConfigError for options that do not go together."""
    from qwq.cluster.detached import Host
    from qwq.cluster.ray_group import RayHosts, ray_address
    from qwq.common.memory import on_cuda
    from qwq.errors import ConfigError

    if options.restarts < 0:
        raise ConfigError(f"--restarts {options.restarts}: give 0 or more")
    names = [h for h in options.hosts.split(",") if h]
    if options.launcher == "processes":
        return [Host(name, options.remote) for name in names] or [Host()]
    if names:
        raise ConfigError(
            f"--hosts {options.hosts} is for plain processes, and --launcher ray uses all hosts of its cluster"
        )
    needs = {"CPU": 1.0, "GPU": 1.0} if on_cuda(recipe.compute.device) else {"CPU": 1.0}
    return [RayHosts(ray_address(), options.restarts, needs)]


def _place_of_trainer(places: list[Host] | list[RayHosts], *, alone: bool) -> Host | RayHosts:
    """This machine, or one of Ray's; it needs nothing of its host where Ray places its processes
    elsewhere.
    """
    from qwq.cluster.detached import Host

    place = places[0]
    return Host() if isinstance(place, Host) else place if alone else replace(place, needs={})


def _servers(own: str, model: str, options: UpOptions, places: list[Host] | list[RayHosts]) -> list[ProcessSpec]:
    """Engines on the places in turn, sandboxes on this machine or where Ray places them."""
    from qwq.cluster.detached import Host
    from qwq.cluster.group import ProcessSpec
    from qwq.cluster.ray_group import HOST
    from qwq.cluster.registry import ENGINE
    from qwq.errors import ConfigError

    engines, sandboxes, port = options.engines, options.sandboxes, options.port
    if engines < 1 or sandboxes < 0:
        raise ConfigError(f"--engines {engines} --sandboxes {sandboxes}: give at least 1 and 0")
    parts = []
    for i in range(engines):
        place = places[i % len(places)]
        name = (place.name.rpartition("@")[2] or "127.0.0.1") if isinstance(place, Host) else HOST
        serve = shlex.join(["serve", model, "--rollout-engine", "--no-page", "--port", str(port + i), "--host"])
        parts.append(ProcessSpec(f"{ENGINE}{i + 1}", f"{own} {serve} {name}", place, f"http://{name}:{port + i}"))
    for i in range(sandboxes):
        at = port + engines + i
        if isinstance(place := places[0], Host):
            parts.append(
                ProcessSpec(f"sandbox-{i + 1}", f"{own} sandbox serve --port {at}", url=f"http://127.0.0.1:{at}")
            )
        else:
            serve, one_cpu = f"{own} sandbox serve --port {at} --host {HOST}", replace(place, needs={"CPU": 1.0})
            parts.append(ProcessSpec(f"sandbox-{i + 1}", serve, one_cpu, f"http://{HOST}:{at}"))
    return parts
