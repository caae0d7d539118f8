"""The kinds of stages that come with qwq: one module a kind, called as the kind, found by its name
(`config.kinds`).

A new module here is a new kind; nothing else has to name it. Each holds its keys, its plan, its run
and what the report shows.
"""
