"""Brim's web side: Flask under gunicorn. It never imports JAX; see README.md."""
