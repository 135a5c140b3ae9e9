"""How good a finished stage is."""
