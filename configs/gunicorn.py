"""gunicorn's settings: BRIM_CONFIG=configs/demo.toml gunicorn -c configs/gunicorn.py app.wsgi:app

They are the settings of `brim serve`, computed from the config that BRIM_CONFIG names:

- workers, Brim's own or gthread, as many as you want (`-w`): they serve HTTP, and a process of its
  own holds the weights once and batches for all clients; the hooks start it and end it
- no preload_app: each worker has its own connection to the engine
- a keepalive longer than that of clients' connection pools: if the server closes first, a request
  may be sent on a connection that is already closed
- on SIGTERM: refuse new requests, drain, answer what was accepted, exit with 0

Add your own settings below; they override these.
"""

import brim

globals().update(brim.gunicorn_options())
