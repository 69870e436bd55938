"""Other model servers with the same functions, buckets and load."""
