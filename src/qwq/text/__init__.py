"""Text: tokenizer, chat template, and what a response says (thinking, answer, tool calls)."""
