"""Rollouts, single turn and with tools: token-in token-out transcripts, never scores."""
