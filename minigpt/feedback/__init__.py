"""Answers of a model, judged and made better: preference pairs that nobody wrote by hand."""
