"""Aider's polyglot benchmark, the Python part: Exercism's harder exercises, two tries, the second
after the output of the tests (aider.chat/docs/leaderboards).

A folder holds one folder an exercise: `.docs/` with the instructions, the stub, the tests, and
`.meta/config.json`, which names them. The reference in `.meta/` is not read. The instructions are
followed by the rules of Aider's prompt in our words; answers are whole files in place of Aider's
edits. `right_within_tries` has both pass rates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwq.data.examples import FileUse
from qwq.errors import DataError
from qwq.tasks.agent.base import MAX_CALLS, NO_TOOLS, AgentTask
from qwq.tasks.base import Protocol
from qwq.tasks.downloads import DataFiles, Published
from qwq.types import ParsedResponse, Problem, Response, Verdict
from qwq.verify.answers.unit_tests import Tested, run_unit_tests

CONFIG = ".meta/config.json"
DOCS = ("introduction.md", "instructions.md", "instructions.append.md")  # in the order in which Aider shows them


class Polyglot(AgentTask):
    name = "polyglot"
    protocol = Protocol(tools=NO_TOOLS, tries=2, max_calls=MAX_CALLS)
    folders = ("polyglot_python",)
    patterns = (f"*/{CONFIG}",)
    published = Published(CONFIG, "https://github.com/Aider-AI/polyglot-benchmark (python/exercises/practice)")

    def load(self, data: DataFiles, split: str, use: FileUse) -> list[Problem]:
        self.check_split(split)
        problems: list[Problem] = []
        for config in data.files(split, self.patterns):
            use.rows += 1
            use.shapes[self.name] += 1
            data.note(config)
            made = self._exercise(config, data)
            if isinstance(made, Problem):
                problems.append(made)
            else:
                use.leave_out(made, str(config.parent.parent))
        return self.loaded(problems, data, use)

    def _exercise(self, config: Path, data: DataFiles) -> Problem | str:
        folder = config.parent.parent
        try:
            names = json.loads(config.read_text(encoding="utf-8"))["files"]
            solution, tests = list(names["solution"]), list(names["test"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{config}: needs files.solution and files.test ({type(error).__name__}: {error})"
            ) from None
        if len(solution) != 1:
            return "with several files to write"
        paths = {name: folder / name for name in [*solution, *tests]}
        if not all(path.is_file() for path in paths.values()):
            return "without their stub or tests"
        for path in paths.values():
            data.note(path)
        texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
        docs = [p.read_text(encoding="utf-8").strip() for d in DOCS if (p := folder / ".docs" / d).is_file()]
        if not docs:
            return "without instructions"
        stub = solution[0]
        about = f"You can run programs with your tools; {stub} is in their working folder. " if self.has_tools else ""
        prompt = (
            "\n\n".join(docs) + f"\n\nThe file {stub}:\n\n```python\n{texts[stub].rstrip()}\n```\n\nFollow the "
            "instructions above. Keep the names of the functions and classes, since tests call them, and use the "
            f"standard library only. {about}Answer with the whole file {stub} in one ```python block."
        )
        truth = {"solution": stub, "tests": {name: texts[name] for name in tests}}
        return self.problem(folder.name, prompt, "\n".join(docs), truth, files={stub: paths[stub]})

    def verify(self, problem: Problem, response: Response) -> Verdict:
        if unanswered := self.unanswered(response):
            return unanswered
        return self._tested(problem.truth, self.answer(response)).verdict

    def _tested(self, truth: Mapping[str, Any], answer: str) -> Tested:
        from qwq.verify.code import extract_code

        code = extract_code(answer)
        if code is None:
            return Tested(self.verdict(None, "the answer holds no code"), "The answer holds no ```python block.")
        tests = truth["tests"]
        return run_unit_tests({**tests, truth["solution"]: code}, list(tests), verifier=self.name)

    def feedback(self, problem: Problem, turn: ParsedResponse) -> str:
        tested = self._tested(problem.truth, turn.final)
        if tested.verdict.correct:
            return ""
        name = problem.truth["solution"]
        return (
            f"{tested.output}\n\nThese are the errors of the tests, which are right. Fix {name} so that they pass. "
            f"Answer with the whole file {name} in one ```python block."
        )
