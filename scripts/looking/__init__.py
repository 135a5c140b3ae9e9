"""The parts of scripts/looking.py."""
