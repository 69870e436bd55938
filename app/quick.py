"""Which requests are so soon done that others may wait for them.

May touch: nothing.

Brim's own worker reads, runs and answers on one thread what this allows, and hands everything else
to a pool. Allowed are routes that only look at memory, and inference on models without code of
their own before the queue, for a body that is short and plain: how long a tokeniser or a large or
compressed body takes, nobody knows beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.services import MODEL_VERSION
from engine.engine import Engine
from engine.errors import BrimError

LONGEST_BODY: Final = 64 * 1024
"""Bytes. So much JSON is decoded in about a millisecond."""

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


class Quick:
    """Asked for every request, before it runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._models = {
            path: name
            for name in engine.names
            for path in (
                f"/v2/models/{name}/infer",
                f"/v2/models/{name}/versions/{MODEL_VERSION}/infer",
            )
        }

    def __call__(self, environ: Mapping[str, Any]) -> bool:
        """May this WSGI request run where others wait for it?"""
        path = environ["PATH_INFO"]
        name = self._models.get(path)
        if name is None:
            return path in PROBES
        if "HTTP_CONTENT_ENCODING" in environ:
            return False
        length = environ.get("CONTENT_LENGTH", "")
        if not length.isdecimal() or len(length) > len(str(LONGEST_BODY)):
            return False
        return int(length) <= LONGEST_BODY and self._takes_arrays(name)

    def _takes_arrays(self, name: str) -> bool:
        try:
            return self._engine.model(name).preprocess is None
        except BrimError:
            return True  # it is refused, which is soon done
