"""What a run has done and is doing, read from its files: a live page, a report, runs side by side."""
