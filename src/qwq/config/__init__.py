"""The typed recipe: a TOML file plus dotted overrides, checked before anything runs. Imports
without torch.

A recipe names a model, and stages in the order in which they run. Every field has a type, a
default, a range and one sentence; unknown keys fail with the nearest valid name.
`--stages.rl1.steps=10` on the command line sets one field. The keys of a kind of stage are in its
own module of `qwq.pipeline.stages`.

base.py       the base of all tables, limits        sections.py  model, compute, cluster, eval
problem_sets.py  problem sets and mixes             training.py  optimiser, adapters
kinds.py      what stages share; their kinds        rl_config.py what RL is set by, the contract
recipe.py     the whole: stages that fit together   load.py      TOML and overrides
errors.py     what is wrong, in one line         above.py     kinds of stages and tasks, which lie above this package
"""

from qwq.config.base import DEVICES, MAX_SEED, MAX_THREADS, STAGE_NAME, START, Positive, Section, Unit
from qwq.config.kinds import Reference, StageConfig, keeps_sequence, known_kinds, own_kinds, register_stage, stage_class
from qwq.config.load import apply_override, find_recipe, parse_value, shipped_recipes, toml_key
from qwq.config.problem_sets import SOURCE_DOMAINS, Mix, Source, task_domain
from qwq.config.recipe import Recipe, dump_recipe, load_recipe
from qwq.config.rl_config import (
    ADVANTAGES,
    LOSS_CLIPS,
    Contract,
    CustomReward,
    Harness,
    RlConfig,
    ToolLimits,
    Validation,
)
from qwq.config.sections import Cluster, ClusterSection, ComputeSection, EvalSection, ModelSection, RolloutSection
from qwq.config.training import Lora, Optim

__all__ = [
    "ADVANTAGES",
    "DEVICES",
    "LOSS_CLIPS",
    "MAX_SEED",
    "MAX_THREADS",
    "SOURCE_DOMAINS",
    "STAGE_NAME",
    "START",
    "Cluster",
    "ClusterSection",
    "ComputeSection",
    "Contract",
    "CustomReward",
    "EvalSection",
    "Harness",
    "Lora",
    "Mix",
    "ModelSection",
    "Optim",
    "Positive",
    "Recipe",
    "Reference",
    "RlConfig",
    "RolloutSection",
    "Section",
    "Source",
    "StageConfig",
    "ToolLimits",
    "Unit",
    "Validation",
    "apply_override",
    "dump_recipe",
    "find_recipe",
    "keeps_sequence",
    "known_kinds",
    "load_recipe",
    "own_kinds",
    "parse_value",
    "register_stage",
    "shipped_recipes",
    "stage_class",
    "task_domain",
    "toml_key",
]
