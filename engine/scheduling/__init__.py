"""Decides what the device does next: queue, admission, batch assembly, fair share."""
