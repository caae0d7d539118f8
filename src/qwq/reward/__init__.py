"""From verdicts and a reward model to rewards, every term apart."""
