"""repair: a function with one changed operator, and its tests to run until they pass.

`run_tests` runs a submitted version in the jail and tells the first case that fails. Right is an
episode whose last submission passes the cases shown and the hidden ones, which no submission ever
met: a table of the expected values that were told passes the first and not the second.
"""

from __future__ import annotations

from typing import Any, ClassVar

from qwq.envs.worlds import WorldRules, WorldTool, rules
from qwq.errors import InfraError
from qwq.types import Outcome, Verdict

TIMEOUT_S = 2.0  # of one case


@rules("repair")
class RepairRules(WorldRules):
    """Spec: `name` of the function; `shown` and `hidden`, cases as `verify.code` has them;
    `calls`.
    """

    tools: ClassVar[tuple[WorldTool, ...]] = (
        WorldTool("run_tests", "Runs the tests on a version of the function.", {"code": "the whole function"}),
    )
    slow = True
    last = ""

    @property
    def max_calls(self) -> int:
        return int(self.spec["calls"])

    def answer(self, tool: str, **arguments: str) -> str:
        self.last = arguments["code"]
        verdict = self._judge(self.spec["shown"])
        return "all tests pass" if verdict.correct else verdict.reason[:500]

    def _judge(self, cases: list[dict[str, Any]]) -> Verdict:
        from qwq.verify import code  # the sandbox is loaded only where programs are run

        tests = {"kind": "call", "entry_point": self.spec["name"], "cases": cases}
        verdict = code.verify(self.last, tests, timeout_s=TIMEOUT_S)
        if verdict.outcome is Outcome.INFRA_ERROR:
            raise InfraError(verdict.reason)
        return verdict

    def fault(self, answer: str) -> str | None:
        if not self.last.strip():
            return "nothing was submitted"
        verdict = self._judge([*self.spec["shown"], *self.spec["hidden"]])
        return None if verdict.correct else f"the last version fails: {verdict.reason[:200]}"
