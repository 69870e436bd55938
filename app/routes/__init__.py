"""The views: decode, submit, wait, encode, and nothing else. One blueprint a file."""
