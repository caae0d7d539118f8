"""The agent: a run that survives a kill, asks before it acts outside, and can be replayed
(docs/agent.md). The loop itself is `rollout.episode.play`.
"""
