"""Open prompts as TRL and verl keep them: `{"prompt", ...}` with any further columns.

Reward functions alone judge them (kind `prompts`), or stage 2's reward model (kind `preference`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwq.data.messages import turns_of
from qwq.errors import DataError
from qwq.tasks.file_task import FileTask
from qwq.tasks.questions import canonical
from qwq.types import CUSTOM, Message, Problem


class Prompts(FileTask):
    """A prompt is a text or a list of messages; a conversation (`messages` without `prompt`) is its
    turns up to the user's last one.
    """

    name = "prompts"
    domain = CUSTOM
    scored = False

    def read(self, row: Mapping[str, Any], where: str, ident: str) -> Problem:
        prompt = row.get("prompt")
        if prompt is None and isinstance(row.get("messages"), list):
            prompt = list(row["messages"])
            while prompt and isinstance(prompt[-1], dict) and prompt[-1].get("role") != "user":
                prompt.pop()
        if not isinstance(prompt, str | list) or not prompt:
            raise DataError(
                f"{where}: needs `prompt`, a text or a list of messages with role and content, found "
                f"{str(prompt)[:40]!r}"
            )
        messages = (Message("user", prompt),) if isinstance(prompt, str) else turns_of(prompt, "prompt").messages
        truth = {k: v for k, v in row.items() if k != ("prompt" if "prompt" in row else "messages")}
        scored = truth.get("reward_model")
        if isinstance(scored, dict) and "ground_truth" in scored:  # verl's own place for it
            truth["ground_truth"] = scored["ground_truth"]
        question = "\n".join(m.content for m in messages)
        source = str(row.get("data_source", self.name))
        return Problem(ident, self.domain, messages, truth, canonical(self.domain, question), source=source)


class PreferencePrompts(Prompts):
    """The same rows for a reward model."""

    name = "preference-rows"
    domain = "preference"
