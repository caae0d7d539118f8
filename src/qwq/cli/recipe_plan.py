"""`qwq explain`: what a recipe will do and need."""

from __future__ import annotations

from pathlib import Path

from qwq.cli.overrides import Overrides, with_seed


def explain(
    recipe: Path,
    *,
    seed: int | None = None,
    runs: Path = Path("runs"),
    simulate: bool = False,
    price: float | None = None,
    tflops: float | None = None,
    gb_s: float | None = None,
    overrides: Overrides,
) -> int:
    """Say what a recipe will do and need: rollouts, updates, tokens, memory and minutes of each
    stage.

    Any field of the recipe can be set by its dotted key, as for `qwq train`.

    Parameters
    ----------
    recipe
        TOML file, or the name of a recipe that comes with qwq, such as tiny (`qwq recipes` lists
        them).
    seed
        Seed of the run.
    runs
        Folder that holds the runs.
    simulate
        Simulate the RL stages on 8, 64 and 512 of the GPUs in [compute.cluster], in turn and with
        steps of lag.
    price
        Of one hour of one machine, in any currency: the plan also says what the stages cost. With
        [compute.cluster] a machine is a node.
    tflops
        Rate of matrix products of another machine, in TFLOP/s; with --gb-s, instead of measuring
        this one.
    gb_s
        Rate at which that machine reads its memory, in GB/s.
    """
    from qwq.config import load_recipe
    from qwq.pipeline.plan.explain import explain_with_cluster as plan

    loaded = load_recipe(recipe, with_seed(overrides, seed))
    print(plan(loaded, runs, simulate=simulate, tflops=tflops, gb_s=gb_s, price=price))
    return 0
