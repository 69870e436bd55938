"""Which view a request is for, remembered.

May touch: werkzeug's routing.

What werkzeug finds out about a request's URL depends on its host, its path and its method alone,
and clients ask for the same few again and again. What it has found is kept, and handed out without
looking. Everything else is left to werkzeug: what matches nothing, redirects, WebSockets, and maps
with converters of their own, which may find something else the next time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

MOST: Final = 256
"""Requests that are remembered. Clients choose the names in a path, so there is no end to them."""

Key = tuple[str, str, str, str, str]


class KnownAdapter(MapAdapter):
    """werkzeug's adapter of a request that matched before."""

    def __init__(self, like: MapAdapter, rule: Rule, args: Mapping[str, Any]) -> None:
        super().__init__(
            like.map,
            like.server_name,
            like.script_name,
            like.subdomain,
            like.url_scheme,
            like.path_info,
            like.default_method,
            like.query_args,
        )
        self._rule = rule
        self._args = args

    def match(self, *args: Any, **named: Any) -> Any:
        """As werkzeug's. What Flask asks is known; another question is answered as ever."""
        if args or named != {"return_rule": True}:
            return super().match(*args, **named)
        return self._rule, dict(self._args)


class RememberingMap(Map):
    """werkzeug's map of routes, and which of them the last requests were for.

    Any thread may use it: what two of them remember at once is the same.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        self._known: dict[Key, KnownAdapter] = {}
        super().__init__(*args, **named)

    def add(self, rulefactory: Any) -> None:
        """Add a route, which may change what the others match."""
        super().add(rulefactory)
        self._known.clear()

    def recall(self, environ: Mapping[str, Any]) -> KnownAdapter | None:
        """What `remember` has made of such a request, or None."""
        key = _key(environ)
        return None if key is None else self._known.get(key)

    def remember(self, environ: Mapping[str, Any], adapter: MapAdapter) -> None:
        """Keep what `adapter` finds for this request, if it is sure to find it again."""
        key = _key(environ)
        if key is None or self.converters != self.default_converters:
            return
        try:
            rule, args = adapter.match(return_rule=True)
        except HTTPException:
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[key] = KnownAdapter(adapter, rule, args)


def _key(environ: Mapping[str, Any]) -> Key | None:
    """Everything that the adapter of a plain request depends on; None for one that is not."""
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
