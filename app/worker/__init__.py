"""A gunicorn worker that serves every connection from one thread."""
