"""The `brim` command: serve, check, bench, simulate, tune, and what they print."""
