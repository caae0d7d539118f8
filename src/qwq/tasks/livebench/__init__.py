"""LiveBench."""
