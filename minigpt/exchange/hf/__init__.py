"""Hugging Face's layout."""
