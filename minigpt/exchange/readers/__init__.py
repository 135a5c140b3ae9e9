"""Other tools that read what was written, and what they must find."""
