"""What scripts/torture.py does to a run, one file per kind of harm."""
