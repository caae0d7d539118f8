"""The OpenAI-compatible server.

runner.py       the engine in a thread of its own, its news told to asyncio once a step
schema.py       the requests that are understood, and what is refused (schema_responses.py: those of /v1/responses)
messages.py     messages to prompts; what becomes of earlier thinking
guide.py        answers held to a JSON schema or to calls of tools
core.py         what all endpoints share: engine requests, counts, times
chat.py         /v1/chat/completions; completions.py, responses.py: theirs
sse.py          server-sent events
guards.py       API keys, size of requests; errors.py: how errors are worded
metrics.py      /metrics; openapi.py: the document
app.py          the paths
command.py      `qwq serve`
"""
