"""Answers held to a form: JSON schemas and calls of tools, as grammars of llguidance.

A grammar sees the answer alone: the engine arms it behind `</think>`. Compiled grammars are kept,
and each sample gets a copy. Covers what llguidance's JSON schemas cover (`json_schema.fitted` says
what is made to fit); what it does not support is refused with its own words. Blanks between JSON
tokens are limited, since a model may otherwise write blanks for ever.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qwq.engine.json_schema import fitted
from qwq.errors import UsageError
from qwq.text.tokenizer import Tokenizer
from qwq.text.tool_calls import CALL_CLOSE, CALL_OPEN

KEPT_GRAMMARS = 64
BLANKS = r"( |\n[ \t]{0,24})"
HEAD = "%llguidance {}\n"
LEAD = "LEAD: /[ \\n]{1,4}/\n"


def json_rule(schema: Any) -> str:
    """A grammar's rule body for one JSON value."""
    if schema is None or schema is True:
        schema = {}
    if schema is False or not isinstance(schema, dict):
        raise UsageError("a JSON schema must be an object")
    return "%json " + json.dumps(fitted(schema) | {"x-guidance": {"whitespace_pattern": BLANKS, "coerce_one_of": True}})


def regex_rule(regex: str) -> str:
    return "/" + regex.replace("/", r"\/").replace("\n", r"\n") + "/"


def choice_rule(choices: Sequence[str]) -> str:
    return " | ".join(_literal(c) for c in choices)


def grammar_rule(grammar: str) -> str:
    """A grammar of the caller's own, in Lark's or llama.cpp's (GBNF) notation.

    UsageError where it is neither.
    """
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return "%lark {\n" + any_to_lark(grammar) + "\n}"
    except Exception as error:  # noqa: BLE001  # GbnfToLarkError, and IndexError at some ends of texts
        raise UsageError(
            f"the grammar cannot be read ({str(error)[:200]}): write it in Lark's notation or in GBNF"
        ) from None


def call_rules(functions: Sequence[tuple[str, Any]], *, opened: bool = False) -> str:
    """Rules `call` and its parts: one call of one of the functions (name and schema of the
    arguments).
    """
    rules = ["call: " + " | ".join(f"call_{i}" for i in range(len(functions)))]
    for i, (name, schema) in enumerate(functions):
        head = ("" if opened else CALL_OPEN) + '\n{"name": ' + json.dumps(name, ensure_ascii=False) + ', "arguments": '
        tail = "}\n" + CALL_CLOSE
        rules.append(f"call_{i}: {_literal(head)} args_{i} {_literal(tail)}")
        rules.append(f"args_{i}: {json_rule(schema or {'type': 'object'})}")
    return "\n".join(rules) + "\n"


def answer_grammar(rule: str, *, lead: bool = True) -> str:
    """The rule alone; `lead`: blank lines may come first, as models write them after their
    thinking.
    """
    return f"{HEAD}start: LEAD? answer\n{LEAD}answer: {rule}\n" if lead else f"{HEAD}start: answer\nanswer: {rule}\n"


def calls_grammar(functions: Sequence[tuple[str, Any]], *, parallel: bool, answer: str | None = None) -> str:
    """One call (or several) of the functions, or else an answer by the rule `answer`."""
    calls = 'call ("\\n" call)*' if parallel else "call"
    start = f"LEAD? (answer | calls)\nanswer: {answer}\n" if answer else "LEAD? calls\n"
    return f"{HEAD}start: {start}calls: {calls}\n{LEAD}{call_rules(functions)}"


def text_or_calls_grammar(functions: Sequence[tuple[str, Any]]) -> str:
    """Any text, in which what `<tool_call>` opens is a call as its schema says."""
    return (
        f"{HEAD}start: (head call)* tail\ntail: TEXT\nhead[lazy]: TEXT {_literal(CALL_OPEN)}\nTEXT: /(.|\\n)*/\n"
        f"{call_rules(functions, opened=True)}"
    )


def _fault(error: str, grammar: str) -> str:
    """llguidance's words on a grammar, in one line: it quotes the lines of a grammar that the
    caller has not written.
    """
    lines = error.strip().splitlines()
    end = next((i for i, line in enumerate(lines) if re.match(r" +\d+ \| ", line)), len(lines))
    place, words = re.match(r"at (\d+)\(\d+\): ", lines[0]), lines[:end]
    words[0] = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", words[0])
    if (
        words[0].endswith("regex parse error:")
        and len(words) > 2
        and (reason := words[-1].removeprefix("error: ")) != words[-1]
    ):
        pattern, mark = words[1][4:], words[2][4:]
        return f"the regular expression {pattern!r}, at {pattern[mark.find('^') : len(mark.rstrip())]!r}: {reason}"
    source = grammar.splitlines()[int(place[1]) - 1] if place else ""
    own = (
        "" if "%json" in source or "regular expression" in words[0] or not source else f", in `{source.strip()[:120]}`"
    )
    return " ".join(" ".join(words).split()) + own


def _literal(text: str) -> str:
    return json.dumps(text)  # in ASCII: the lexer takes no control characters as they are


class _Vocabulary:
    """A tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_id: int) -> None:
        known = tokenizer.token_bytes
        self.tokens = [*known, *[b""] * (vocab_size - len(known))][:vocab_size]
        self.eos_token_id, self.bos_token_id = eos_id, None
        special = [tokenizer.added_tokens[t] for t in tokenizer.special_tokens]
        self.special_token_ids = sorted({*special, eos_id})
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode())


class LlguidanceMatcher:
    """The engine's `GrammarMatcher`, by llguidance."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self.failed = ""

    def mask(self, logits_V: Tensor) -> Tensor:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed_V = np.unpackbits(bits, bitorder="little")[: len(logits_V)]
        if self._matcher.is_error() or not allowed_V.any():
            self.failed = self._matcher.get_error() or "no token fits"
        return logits_V.masked_fill(torch.from_numpy(allowed_V == 0), -torch.inf)

    def push(self, token: int) -> bool:
        if not self._matcher.consume_token(token):
            self.failed = self._matcher.get_error() or "a token does not fit"
            return True
        return self._matcher.is_stopped()


class Grammars:
    """Compiles grammars for one tokenizer. The vocabulary is read when the first one comes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos_ids = tokenizer, vocab_size, list(eos_ids)
        self._vocabulary: Any = None
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: str, param: str) -> Callable[[], LlguidanceMatcher]:
        """Makes guides. UsageError where the grammar cannot be; `param` is the field it came in."""
        from llguidance import LLMatcher

        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
            else:
                matcher = LLMatcher(self._words(), grammar, log_level=0)
                if matcher.is_error():
                    fault = _fault(matcher.get_error(), grammar)[:400]
                    raise UsageError(f"{param}: this form cannot be enforced ({fault}): leave that part out")
                self._kept[grammar] = matcher
                if len(self._kept) > KEPT_GRAMMARS:
                    self._kept.popitem(last=False)
            matcher = self._kept[grammar]
        return lambda: LlguidanceMatcher(matcher.deep_copy())

    def for_schema(self, schema: Mapping[str, Any]) -> Callable[[], LlguidanceMatcher] | None:
        """Makes guides for an answer that is JSON of a schema; None where llguidance is not
        installed or cannot hold a model to it.
        """
        if find_spec("llguidance") is None:
            return None
        try:
            return self.compile(answer_grammar(json_rule(dict(schema))), "schema")
        except UsageError:
            return None

    def _words(self) -> Any:
        if self._vocabulary is None:
            from llguidance import LLTokenizer, TokenizerWrapper

            wrapped = TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size, self._eos_ids[0]))
            self._vocabulary = LLTokenizer(wrapped, n_vocab=self._vocab_size, eos_token=self._eos_ids)
        return self._vocabulary
