"""The `featx` command."""
