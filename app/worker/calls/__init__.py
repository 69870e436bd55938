"""Calls that may block: the lanes of threads that make them, and what may wait there."""
