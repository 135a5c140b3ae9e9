"""Files that are there whole or not at all: checkpoints, a stage's directory, the lock."""
