"""Environments that answer tool calls, and the loop that runs a model in them."""
