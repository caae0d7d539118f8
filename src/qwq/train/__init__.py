"""Training in all its stages: pretraining, SFT, reward model, RL. `losses` is pure maths; `rl` is
the loop to read first.

A call of this package, `qwq.train(recipe)`, is `qwq.api.train`.
"""

from qwq.common.callables import make_callable

make_callable(__name__, "qwq.api:train")
