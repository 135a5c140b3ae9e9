"""The table of training stages, a file for each."""
