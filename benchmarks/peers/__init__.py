"""Brim beside other model servers: the same functions, buckets and load, in one run."""
