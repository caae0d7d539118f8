"""The OpenAI-compatible server.

command.py          `qwq serve`; options.py: its options
app.py              the paths; switch.py: several models under one address; model_turns.py: one of
                    them in memory at a time
engine_thread.py    the engine in a thread of its own; asyncio gets its updates once a step
core.py             what all endpoints share: engine requests, counts, times
schema*.py          the requests that are understood, and what is refused
prompt.py           messages to prompts; what becomes of earlier thinking
hosted*.py          tools of responses that the server runs; served_policy.py: its model as a policy of episodes;
                    desks.py: Python sessions by handle
mcp/                what is offered to other agents
response_format.py  which form of answer a request asks for; engine/grammar.py: compiled and matched
turn.py             one assistant turn, whole or streamed
chat.py             /v1/chat/completions; completions.py, anthropic.py, ollama.py, llamacpp.py: theirs
responses.py        /v1/responses; response_input.py, response_items.py, response_store.py: items in, out, kept
sse.py              server-sent events
guards.py           API keys, size of requests; errors.py: the wording of errors; access.py: the access log
metrics.py          /metrics; about.py: models, health, tokenizer; openapi.py: the document
page/               the chat page and its conversations
"""
