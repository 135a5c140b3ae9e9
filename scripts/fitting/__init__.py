"""Campaigns that measure what `plan` and the limits promise; scripts/fit.py runs them."""
