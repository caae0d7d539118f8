"""The typed recipe: a TOML file plus dotted overrides, checked before anything runs. Imports without torch.

A recipe names a model, and stages in the order in which they run. Every field has a type, a default, a range and one sentence;
unknown keys fail with the nearest valid name. `--stages.rl1.steps=10` on the command line sets one field.

base.py       the base of all tables, limits        sections.py  model, compute, eval
sources.py    problem sets and mixes                training.py  optimiser, adapters
stages.py     stages on documents and on pairs      rl.py        RL stages and the contract
recipe.py     the whole: stages that fit together   load.py      TOML and overrides
errors.py     what is wrong, in one line
"""

from qwq.config.base import DEVICES, MAX_SEED, MAX_THREADS, STAGE_NAME, START, Positive, Section, Unit
from qwq.config.load import apply_override, find_recipe, parse_value, shipped_recipes
from qwq.config.recipe import POLICY_KINDS, Recipe, dump_recipe, load_recipe
from qwq.config.rl import (
    ADVANTAGES,
    LOSS_CLIPS,
    Contract,
    Function,
    RewardMixing,
    Rl1Stage,
    Rl2Stage,
    RlStage,
    ToolLimits,
    Validation,
)
from qwq.config.sections import Cluster, ComputeSection, EvalSection, ModelSection
from qwq.config.sources import SOURCE_DOMAINS, Mix, Source
from qwq.config.stages import (
    ControlStage,
    DpoStage,
    PairsStage,
    PretrainStage,
    RewardModelStage,
    SftStage,
    Stage,
)
from qwq.config.training import Lora, Optim

__all__ = [
    "ADVANTAGES",
    "Cluster",
    "ComputeSection",
    "Contract",
    "ControlStage",
    "DEVICES",
    "DpoStage",
    "EvalSection",
    "Function",
    "LOSS_CLIPS",
    "Lora",
    "MAX_SEED",
    "MAX_THREADS",
    "Mix",
    "ModelSection",
    "Optim",
    "POLICY_KINDS",
    "PairsStage",
    "Positive",
    "PretrainStage",
    "Recipe",
    "RewardMixing",
    "RewardModelStage",
    "Rl1Stage",
    "Rl2Stage",
    "RlStage",
    "SOURCE_DOMAINS",
    "STAGE_NAME",
    "START",
    "Section",
    "SftStage",
    "Source",
    "Stage",
    "Unit",
    "ToolLimits",
    "Validation",
    "apply_override",
    "dump_recipe",
    "find_recipe",
    "load_recipe",
    "parse_value",
    "shipped_recipes",
]
