"""What this program offers to other agents over MCP: Python that keeps state, programs in the jail,
the verifiers. `offered.py` has the tools, `provider.py` puts them behind the protocol, on standard
input and output (`qwq mcp`) or at `/mcp` of `qwq serve`.
"""
