"""The tokens of an answer, with the probabilities that the policy gave them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from qwq.common.run_folder import RunFolder
from qwq.errors import QwqError
from qwq.look.shown_answers import ShownAnswer

if TYPE_CHECKING:
    from qwq.text.tokenizer import Tokenizer


class Shader:
    """Cuts answers into their tokens.

    The run's tokenizer is read when the first answer needs it.
    """

    def __init__(self, target: Path) -> None:
        folder = RunFolder(target)
        self._folders = [folder.tokenizer, *folder.finals()]
        self._tokenizer: Tokenizer | None = None
        self._is_read = False

    def pieces(self, shown: ShownAnswer) -> list[tuple[str, float | None]]:
        """(text, probability) of each token, None if the model did not choose it; empty without
        tokens or tokenizer.
        """
        ids, logprobs, mask = shown.completion_ids, shown.logprobs, shown.sampled_mask
        if not ids or len(ids) != len(logprobs) or len(ids) != len(mask):
            return []
        tokenizer = self._read()
        if tokenizer is None:
            return []
        from qwq.text.tokenizer import TextStream

        stream = TextStream(tokenizer)
        texts = [stream.push(i) for i in ids]
        texts[-1] += stream.finish()
        return [
            (text, min(1.0, math.exp(logprob)) if sampled else None)
            for text, logprob, sampled in zip(texts, logprobs, mask, strict=True)
        ]

    def _read(self) -> Tokenizer | None:
        if not self._is_read:
            self._is_read = True
            from qwq.text.tokenizer import Tokenizer

            for folder in self._folders:
                try:
                    self._tokenizer = Tokenizer.from_folder(folder)
                    break
                except QwqError:
                    continue  # the probabilities are an extra: without a tokenizer the text is shown
        return self._tokenizer
