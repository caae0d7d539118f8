"""Machines that compute logits: torch, llama.cpp, CUDA."""
