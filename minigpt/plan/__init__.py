"""What a run will take, before it starts: costs of a model, memory, time, disk, and the micro-batches that fit."""
