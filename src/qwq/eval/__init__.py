"""Benchmarks: problems in, scores with intervals and every transcript out."""
