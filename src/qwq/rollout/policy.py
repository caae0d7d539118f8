"""Who answers: one protocol for the engine in this process and for a server. See `policies/` for
both.

A request is one turn. `generate` asks its caller for the next request whenever it has room, so
further turns of a conversation can be handed in while others are still being written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwq.engine.sampler import SamplingParams
from qwq.text.template import ChatFormat, MessageLike
from qwq.types import Turn


@dataclass(slots=True)
class TurnRequest:
    """One turn to be made. `key` is the caller's own.

    `prompt_ids` are the tokens to continue from; None lets the policy render `messages` and
    `tools`, which a policy without tokens always does. `seed` and `stream` name the random stream
    (`stream` numbers the samples of one seed), and `offset` is the number of its draws that earlier
    turns have used. `params.max_new_tokens` bounds this turn; `thinking_budget` its thinking, in
    tokens, None for no limit. `loop_tokens` is how long an exact repetition may get before it is
    stopped, 0 for any length. `logprobs`: the turn carries its tokens' log-probabilities, and every
    token is drawn from the model's own distribution, as a policy gradient assumes (see
    `engine.request.GenerationRequest.plain_sampling`). `version` is the number of the weights that
    must answer, None for any. `on_text` hears the turn's text piece by piece, from a policy that
    writes it here. `keep`: a further turn may continue from the tokens of this one. `schema`: the
    turn is to be JSON of this schema and makes no calls; a policy holds the model to it as far as
    it can, so the caller checks what comes.
    """

    key: Any
    params: SamplingParams
    messages: Sequence[MessageLike] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    prompt_ids: Sequence[int] | None = None
    seed: int = 0
    stream: int = 0
    offset: int = 0
    thinking_budget: int | None = None
    loop_tokens: int = 0
    logprobs: bool = False
    version: int | None = None
    on_text: Callable[[str], None] | None = None
    keep: bool = True
    schema: Mapping[str, Any] | None = None


# The next turn to be made; None where there is none at the moment.
NextRequest = Callable[[], TurnRequest | None]


class Policy(Protocol):
    """A model that answers. `identity` is what may not change within one folder of results.

    `token_exact`: turns carry their token ids, and a request may continue from ids; `chat` is then
    the format of its tokens. `context` is the longest prompt and answer together in tokens, None
    where that is not known. `native_tools`: the chat template writes the tools into the prompt.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def context(self) -> int | None: ...

    @property
    def token_exact(self) -> bool: ...

    @property
    def native_tools(self) -> bool: ...

    @property
    def chat(self) -> ChatFormat | None: ...

    @property
    def version(self) -> int: ...

    def generate(self, next_request: NextRequest, concurrency: int | None = None) -> Iterator[tuple[TurnRequest, Turn]]:
        """Turns in the order in which they end, at most `concurrency` at once (None: as many as the
        policy computes at once).

        Asks `next_request` before each step and after each turn. Ends when it returns None while no
        turn is being made.
        """
        ...

    def pause(self) -> None:
        """No token is sampled until `resume`; turns that are being made keep what they have."""
        ...

    def update_weights(self, version: int) -> None:
        """The weights are now those of `version`: nothing computed from earlier ones is used for a
        new turn.
        """
        ...

    def resume(self) -> None: ...

    def close(self) -> None: ...
