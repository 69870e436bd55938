"""The engine's process as its clients see it."""
