"""The decoder: layers as functions over a tree of weights."""
