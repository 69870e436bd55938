"""Threads, staging, launches and results."""
