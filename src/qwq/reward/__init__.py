"""From verdicts and a reward model to rewards, every term apart.

A call of this package, `@qwq.reward("name")`, is `register_reward` of functions.py.
"""

from qwq.common.callables import make_callable

make_callable(__name__, "qwq.reward.functions:register_reward")
