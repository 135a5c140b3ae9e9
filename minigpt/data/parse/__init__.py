"""From raw rows to examples."""
