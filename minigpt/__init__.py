"""MiniGPT: make a language model from nothing, on one laptop, and understand every step."""

__version__ = "0.1.0"
