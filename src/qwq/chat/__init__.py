"""`qwq chat`: a conversation with a model in the terminal, streamed token by token, thinking dimmed
or folded away.

`conversation` holds messages and tokens and asks the engine, `lines` reads questions and commands,
`screen` shows answers (`markdown` and `formula` style them), `command` puts them together. Ctrl-C
stops an answer; the conversation continues. Each turn is saved, and `--resume` continues the last
conversation with that model.
"""
