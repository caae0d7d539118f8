"""Fields that programs written for other servers send: other names of what exists here, and
settings of what does not at their defaults.

Names are those of llama.cpp's server, vLLM, SGLang, Ollama, OpenRouter and DashScope. A field's own
name goes before its other ones.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from qwq.serve.fields import WHOLE, Effort, OnlyEmpty, OnlyFalse, OnlyNull, OnlyOne, OnlyTrue, OnlyZero, Strict, only

# Other name -> the field that it means.
ALIASES = {
    "repeat_penalty": "repetition_penalty",
    "thinking_budget": "thinking_token_budget",
    "thinking_budget_tokens": "thinking_token_budget",
    "reasoning_budget": "thinking_token_budget",
}
MAX_TOKENS = ("n_predict", "max_new_tokens")  # in chats and text completions max_tokens, in responses max_output_tokens
Tokens = Annotated[int, Field(ge=0), WHOLE]
TokensOrAll = Annotated[int, Field(ge=-1), WHOLE]


class ThinkingSwitch(Strict):
    """Anthropic's and others' way to say how much to think."""

    type: Literal["enabled", "disabled", "adaptive", "auto"] | None = None
    budget_tokens: Tokens | None = None


class ReasoningSwitch(Strict):
    """OpenRouter's. `summary` is what responses have; thinking is always given in full."""

    effort: Effort | None = None
    max_tokens: Tokens | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    summary: Literal["auto"] | None = None


class Habits(Strict):
    """What every kind of request of OpenAI's API takes."""

    thinking_token_budget: Tokens | None = None
    repeat_penalty: Annotated[float | None, Field(ge=0.01, le=100)] = None
    n_predict: Literal[-1] | Annotated[int, Field(ge=1), WHOLE] | None = None
    max_new_tokens: Annotated[int, Field(ge=1), WHOLE] | None = None
    skip_special_tokens: bool | None = None
    enable_thinking: bool | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    thinking: ThinkingSwitch | None = None
    thinking_budget: Tokens | None = None
    thinking_budget_tokens: Tokens | None = None
    reasoning_budget: TokensOrAll | None = None
    # What cannot change the output.
    cache_prompt: bool | None = None
    id_slot: Annotated[int, WHOLE] | None = None
    keep_alive: str | int | None = None
    rid: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    # What is not implemented, at its default.
    priority: OnlyZero | None = None
    spaces_between_special_tokens: OnlyTrue | None = None
    include_stop_str_in_output: OnlyFalse | None = None
    use_beam_search: OnlyFalse | None = None
    early_stopping: OnlyFalse | None = None
    length_penalty: OnlyOne | None = None
    detokenize: OnlyTrue | None = None
    truncate_prompt_tokens: OnlyNull = None
    bad_words: OnlyEmpty | None = None
    logits_processors: OnlyEmpty | None = None
    documents: OnlyEmpty | None = None
    mm_processor_kwargs: OnlyEmpty | None = None
    vllm_xargs: OnlyEmpty | None = None
    kv_transfer_params: OnlyEmpty | None = None
    return_token_ids: OnlyFalse | None = None
    return_tokens_as_token_ids: OnlyFalse | None = None
    typical_p: OnlyOne | None = None
    tfs_z: OnlyOne | None = None
    mirostat: OnlyZero | None = None
    xtc_probability: OnlyZero | None = None
    dry_multiplier: OnlyZero | None = None
    n_probs: OnlyZero | None = None
    n_keep: OnlyZero | None = None
    repeat_last_n: Annotated[int, only(-1), WHOLE, WithJsonSchema({"const": -1})] | None = None
    timings_per_token: OnlyFalse | None = None
    return_progress: OnlyFalse | None = None
    no_stop_trim: OnlyFalse | None = None
    separate_reasoning: OnlyTrue | None = None
    stream_reasoning: OnlyTrue | None = None
    reasoning_format: Literal["auto", "deepseek"] | None = None

    @model_validator(mode="after")
    def _by_own_names(self) -> Any:
        limit = next((name for name in ("max_tokens", "max_output_tokens") if name in type(self).model_fields), None)
        names = ALIASES | (dict.fromkeys(MAX_TOKENS, limit) if limit else {})
        for other, own in names.items():
            value = getattr(self, other)
            if value is not None and value != -1 and getattr(self, own) is None:
                setattr(self, own, value)
        reasoning: ReasoningSwitch | None = getattr(self, "reasoning", None)
        budgets = (
            None if self.thinking is None else self.thinking.budget_tokens,
            None if reasoning is None else reasoning.max_tokens,
        )
        for budget in budgets:
            if budget is not None and self.thinking_token_budget is None:
                self.thinking_token_budget = budget
        return self

    @property
    def switch(self) -> bool | None:
        """Whether to think at all, where the request says so; see also chat_template_kwargs."""
        reasoning: ReasoningSwitch | None = getattr(self, "reasoning", None)
        if self.thinking is not None and self.thinking.type in ("enabled", "disabled"):
            return self.thinking.type == "enabled"
        switches = (
            self.enable_thinking,
            None if self.think is None else bool(self.think),
            None if reasoning is None else reasoning.enabled,
        )
        return next((s for s in switches if s is not None), None)

    @property
    def effort(self) -> str | None:
        """The effort that the request names, by whichever of the fields."""
        reasoning: ReasoningSwitch | None = getattr(self, "reasoning", None)
        named = (getattr(self, "reasoning_effort", None), reasoning and reasoning.effort, self.think)
        return next((n for n in named if isinstance(n, str)), None)

    @property
    def shows_thinking(self) -> bool:
        reasoning: ReasoningSwitch | None = getattr(self, "reasoning", None)
        return getattr(self, "include_reasoning", None) is not False and not (reasoning and reasoning.exclude)
