"""`minigpt serve`: models of runs behind an HTTP API that clients know, and a chat page."""
