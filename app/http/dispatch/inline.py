"""Decides which requests run on the thread that serves all connections.

Brim's own worker runs on its loop's thread what `InlinePolicy` allows, and everything else in a
pool. The policy allows routes that only read memory, and inference with a short, uncompressed body
on models without `preprocess`, or with one that is quick for such a body: two hand-overs to a pool
and back take longer than to tokenise a sentence, and than to refuse it. The time of any other
`preprocess`, or of any other body, is not known before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.http.services import MODEL_VERSION
from engine.api import BrimError, EngineClient

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


class InlinePolicy:
    """Called with the WSGI environ of every request, before it runs."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._models: dict[str, str] = {}
        for name in engine.names:
            for path in ("", f"/versions/{MODEL_VERSION}"):
                self._models[f"/v2/models/{name}{path}/infer"] = name

    def __call__(self, environ: Mapping[str, Any]) -> bool:
        """Return whether this request may run on the loop's thread."""
        path = environ["PATH_INFO"]
        name = self._models.get(path)
        if name is None:
            return path in PROBES
        if "HTTP_CONTENT_ENCODING" in environ:
            return False
        length = environ.get("CONTENT_LENGTH", "")
        if not length.isdecimal() or len(length) > len(str(LONGEST_BODY)):
            return False
        return int(length) <= LONGEST_BODY and self._is_quick(name, int(length))

    def _is_quick(self, name: str, size: int) -> bool:
        try:
            processor = self._engine.endpoint(name).interface.processor
        except BrimError:
            return True  # the refusal is fast
        return processor.preprocess is None or size <= processor.quick_bytes
