"""Sizing and tuning without a server: measured bucket costs, simulated on a virtual clock."""
