"""Runs the scheduler on a simulated clock: traces, other servers' rules, bucket size search."""
