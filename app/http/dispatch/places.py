"""Decides where a request runs: on the thread that serves all connections, or in a lane.

Brim's own worker calls `Places` with every request. On the loop's thread run routes that only read
memory, and inference with a short, uncompressed body on models without `preprocess`, or with one
that is quick for such a body: two hand-overs to a lane and back take longer than to tokenise a
sentence, and than to refuse it. The time of any other `preprocess`, or of any other body, is not
known before: these run in a lane of threads, one lane for each model. Brim's other routes have a
lane that no code of a model or a user enters, and all that is left, routes of users, has one, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from app.http.inference import timeout_of
from app.http.services import MODEL_VERSION
from app.worker.calls.pool import OWN
from app.worker.suspension import Place
from engine.api import BrimError, EngineClient, InvalidRequest

LONGEST_BODY: Final = 64 * 1024
"""Bytes. To decode so much JSON takes about a millisecond."""

PROBES: Final = frozenset(
    (
        "/healthz",
        "/readyz",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models",
        "/v1/models",
    )
)

EMBEDDINGS: Final = "/v1/embeddings"
"""The route whose body names the model, and the name of its lane."""

_OWN_ROUTES: Final = ("/v2/", "/v1/models/", "/docs/")
_OWN: Final = frozenset(("/metrics", "/openapi.json", "/docs", "/"))

INLINE_PROBE: Final = Place(OWN, inline=True)
OWN_LANE: Final = Place(OWN)
USERS: Final = Place("routes")
"""Routes of users: they have no deadline."""


class Places:
    """Called with the WSGI environ of every request, before it runs."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._inline: dict[str, Place] = {}
        self._probes = set(PROBES)
        timeouts = []
        for name in engine.names:
            timeouts.append(engine.endpoint(name).config.timeout_s)
            for path in ("", f"/versions/{MODEL_VERSION}"):
                self._inline[f"/v2/models/{name}{path}/infer"] = Place(name, inline=True)
                self._probes.add(f"/v2/models/{name}{path}/ready")
        self._longest_s = max(timeouts, default=math.inf)

    def __call__(self, environ: Mapping[str, Any]) -> Place:
        """Return where this request runs."""
        path = environ["PATH_INFO"]
        inline = self._inline.get(path)
        if inline is None:
            return self._other(path, environ)
        if "HTTP_CONTENT_ENCODING" not in environ and self._is_quick(
            inline.lane, environ.get("CONTENT_LENGTH", "")
        ):
            return inline
        return _lane(inline.lane, self._engine.endpoint(inline.lane).config.timeout_s, environ)

    def _other(self, path: str, environ: Mapping[str, Any]) -> Place:
        if path in self._probes:
            return INLINE_PROBE
        if path == EMBEDDINGS:
            # the model's own timeout is known when the body is read
            return _lane(EMBEDDINGS, self._longest_s, environ)
        if path in _OWN or path.startswith(_OWN_ROUTES):
            return OWN_LANE
        return USERS

    def _is_quick(self, name: str, length: str) -> bool:
        if not length.isdecimal() or len(length) > len(str(LONGEST_BODY)):
            return False
        size = int(length)
        if size > LONGEST_BODY:
            return False
        try:
            processor = self._engine.endpoint(name).interface.processor
        except BrimError:
            return True  # the refusal is fast
        return processor.preprocess is None or size <= processor.quick_bytes


def _lane(name: str, timeout_s: float, environ: Mapping[str, Any]) -> Place:
    try:
        own = timeout_of(environ)
    except InvalidRequest:  # the view refuses it
        own = None
    return Place(name, timeout_s=timeout_s if own is None else min(timeout_s, own))
