"""The engine: models in, batched answers out. Knows no web."""
