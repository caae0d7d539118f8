"""The simulated back ends of BFCL's multi-turn tasks: a file system, a calculator, messages, posts,
tickets, stocks, travel, a car.

Each is a class whose public methods are the functions of BFCL's `multi_turn_func_doc` and whose
public attributes are the state that is compared. Written from those documents and the tasks'
initial configurations; what these leave open (default states, the seeds of drawn ids, prices of
routes, orders of checks) follows bfcl-eval (Apache-2.0). The text of an error is ours.
"""

from __future__ import annotations

from qwq.envs.bfcl.base import World
from qwq.envs.bfcl.file_system import GorillaFileSystem
from qwq.envs.bfcl.math_api import MathAPI
from qwq.envs.bfcl.social import MessageAPI, TicketAPI, TwitterAPI
from qwq.envs.bfcl.trading import TradingBot
from qwq.envs.bfcl.travel import TravelAPI
from qwq.envs.bfcl.vehicle import VehicleControlAPI

WORLDS: dict[str, type[World]] = {
    w.__name__: w
    for w in (GorillaFileSystem, MathAPI, MessageAPI, TwitterAPI, TicketAPI, TradingBot, TravelAPI, VehicleControlAPI)
}
WORLDS["PostingAPI"] = TwitterAPI  # the name of its document
