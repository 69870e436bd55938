"""Hostile and careless clients beside well-behaved ones; see `benchmarks.hostile.__main__`."""
