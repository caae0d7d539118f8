"""A request of another API in this server's own fields."""

from __future__ import annotations

from qwq.serve.fields import Effort
from qwq.serve.schema import Sampling
from qwq.serve.schema_messages import TemplateFields


class Translated(Sampling, TemplateFields):
    """What Anthropic's and Ollama's requests are turned into."""

    reasoning_effort: Effort | None = None
    include_reasoning: bool | None = None
