"""For `gunicorn -c configs/gunicorn.py app.wsgi:app`: importing this module starts the engine."""

from app.hosting.process import build, settings_or_exit

app = build(settings_or_exit())
