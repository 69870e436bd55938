"""The engine's client in an HTTP process."""
