"""The client of OpenAI-compatible servers: requests with retries, refusals read, replies in their
parts.

Evaluation and distillation ask through it. A server's failure is an InfraError and never an answer:
what it says is taken for the model's only where it says how the answer ended.
"""
