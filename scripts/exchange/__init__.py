"""The checks of scripts/peers.py."""
