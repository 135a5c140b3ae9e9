"""Parity: both backends, operation by operation and model by model, against each other and against NumPy."""
