"""Sampling from the model that is trained: requests in, tokens and their log-probabilities out."""
