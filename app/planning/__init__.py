"""Commands that plan: measure the buckets, simulate a server, choose bucket sizes."""
