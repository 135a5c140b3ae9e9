"""Reinforcement learning held against its definitions, against theory, and against planted mistakes."""
