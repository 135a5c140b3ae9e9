"""Tokenizers, and conversations as token ids."""
