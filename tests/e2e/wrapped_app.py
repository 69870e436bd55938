"""Brim's app with a user's middleware around what it returns, for gunicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from app import hosting

Wsgi = Callable[..., Iterable[bytes]]


def loud(wrapped: Wsgi) -> Wsgi:
    """Calls the app with an environ of its own, and makes its answers upper-case."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        parts = wrapped(environ.copy(), start_response)
        return (part.upper() for part in parts)

    return call


app = hosting.build_from_environment()
app.wsgi_app = loud(app.wsgi_app)  # type: ignore[method-assign]
