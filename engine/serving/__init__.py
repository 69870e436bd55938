"""Endpoints, versions, life cycles, and the in-process client."""
