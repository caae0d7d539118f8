"""Problems: endless procedural families with fixed splits, and real sets (GSM8K, MATH, MBPP)."""
