"""A model that computes next to nothing, and an app without an engine: the rest is ours."""
