"""Verification and timing of every bucket."""
