"""What the checks of `minigpt serve` share."""
