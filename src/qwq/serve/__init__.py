"""The OpenAI-compatible server.

options.py      options of `qwq serve`
engine_thread.py  the engine in a thread of its own; asyncio gets its updates once a step
schema.py       the requests that are understood, and what is refused (schema_responses.py: those of /v1/responses)
prompt.py       messages to prompts; what becomes of earlier thinking
response_format.py  which form of answer a request asks for; grammar.py: compiled and matched
core.py         what all endpoints share: engine requests, counts, times
chat.py         /v1/chat/completions; completions.py, responses.py: theirs
sse.py          server-sent events
guards.py       API keys, size of requests; errors.py: how errors are worded
metrics.py      /metrics; openapi.py: the document
app.py          the paths; switch.py: several models, one in memory at a time
command.py      `qwq serve`
"""
