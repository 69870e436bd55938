"""gunicorn's settings: BRIM_CONFIG=configs/demo.toml gunicorn -c configs/gunicorn.py app.wsgi:app

They are those of `brim serve`, computed from the config that BRIM_CONFIG names:

- one worker, Brim's own or gthread: one process holds the weights once and batches for all clients
- no preload_app: the engine starts after the fork, because JAX does not survive one
- keepalive above that of the clients' pools: below it, a request races with the close
- SIGTERM: refuse, drain, answer, exit 0

Your own settings go below and win.
"""

from app import hosting

globals().update(hosting.gunicorn_options(hosting.settings_or_exit()))
