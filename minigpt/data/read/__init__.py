"""From paths to files to raw rows."""
