"""A gunicorn worker that serves every connection from one thread.

`worker` is the gunicorn worker and its life; `loop` waits, for sockets, for moments and for other
threads; `connection` is what one client does; `inbox` and `outbox` are its bytes; `exchange` is one
request and its answer. What may block runs in a pool; what waits for the engine holds no thread.
"""
