"""What the scripts about reinforcement learning share."""
