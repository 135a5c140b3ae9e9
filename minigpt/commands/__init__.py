"""The commands: each parses, loads the configuration and calls one function. Imports nothing heavy."""
