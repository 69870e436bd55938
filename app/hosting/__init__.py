"""Hosting under gunicorn: its configuration, and the life of the process that serves."""
