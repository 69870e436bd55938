"""The null model, which computes almost nothing, and the floor, an app without an engine."""
