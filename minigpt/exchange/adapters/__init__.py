"""Adapters of peft and mlx-lm."""
