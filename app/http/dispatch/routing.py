"""Routing that remembers what recent requests matched.

What werkzeug finds for a URL depends on host, path and method alone, and clients repeat the same
few. URLs that match nothing, redirects and WebSockets are not remembered, nor is anything in a map
with custom converters, which may find something else the next time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from typing_extensions import override
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

MAX_KNOWN: Final = 256
"""Requests that are remembered. Clients choose the names in a path, so a limit is needed."""

Key = tuple[str, str, str, str, str]


class KnownAdapter(MapAdapter):
    """werkzeug's adapter of a request that matched before."""

    def __init__(self, like: MapAdapter, rule: Rule, args: Mapping[str, Any]) -> None:
        vars(self).update(vars(like))
        self.rule = rule
        self.args = args

    @override
    def match(self, *args: Any, **named: Any) -> Any:
        # this is how Flask calls it
        if args or named != {"return_rule": True}:
            return super().match(*args, **named)
        return self.rule, dict(self.args)


class RememberingMap(Map):
    """werkzeug's map of routes that remembers matches.

    Any thread may use it: two threads that remember the same request remember equal things.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        self._known: dict[Key, KnownAdapter] = {}
        super().__init__(*args, **named)

    @override
    def add(self, rulefactory: Any) -> None:
        super().add(rulefactory)
        self._known.clear()  # the new route may change what the others match

    def recall(self, environ: Mapping[str, Any]) -> KnownAdapter | None:
        """Return what `remember` has kept for such a request, or None."""
        key = _key(environ)
        return None if key is None else self._known.get(key)

    def remember(self, environ: Mapping[str, Any], adapter: MapAdapter) -> None:
        """Keep what `adapter` finds for this request, unless it may find something else later."""
        key = _key(environ)
        if key is None or self.converters != self.default_converters:
            return
        try:
            rule, args = adapter.match(return_rule=True)
        except HTTPException:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = KnownAdapter(adapter, rule, args)


def _key(environ: Mapping[str, Any]) -> Key | None:
    """All that the adapter of a plain request depends on; None for other requests."""
    host = environ.get("HTTP_HOST")
    if host is None or environ.get("QUERY_STRING") or "HTTP_UPGRADE" in environ:
        return None
    return (
        environ["REQUEST_METHOD"],
        environ.get("PATH_INFO", ""),
        host,
        environ.get("SCRIPT_NAME", ""),
        environ["wsgi.url_scheme"],
    )
