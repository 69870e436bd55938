"""An answer of which every byte is known when it is made.

May touch: flask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from flask import Response

OK: Final = 200


class Written(Response):
    """A 200 with these bytes. Whoever calls it as a WSGI application closes it, too."""

    def __init__(self, content: bytes, content_type: str) -> None:
        super().__init__(content, content_type=content_type)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """WSGI. werkzeug looks what there is to correct; here there is nothing."""
        if self.status_code != OK or environ["REQUEST_METHOD"] == "HEAD" or self._has_url():
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.iter_encoded()

    def _has_url(self) -> bool:
        """May there be a header that werkzeug would write as a URL?"""
        return "location" in " ".join([name for name, _ in self.headers]).lower()
