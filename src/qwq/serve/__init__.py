"""The OpenAI-compatible server.

runner.py    the engine in a thread of its own, asked from asyncio
schema.py    the requests that are understood, and what is refused
app.py       /health, /v1/models, /v1/completions, /v1/chat/completions
command.py   `qwq serve`
"""
