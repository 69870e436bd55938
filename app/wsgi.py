"""For `gunicorn -c configs/gunicorn.py app.wsgi:app`: importing this starts the engine."""

from app import hosting

app = hosting.build_from_environment()
