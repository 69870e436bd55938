"""What every answer in JSON is a type of.

May touch: msgspec. The document shows these types, and the answers are written as them.
"""

from __future__ import annotations

import msgspec


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a route answers: these fields and no others, all of them there unless they are UNSET.

    A default would make the document say that a field may be missing.
    """


class Readiness(Answer, frozen=True):
    """An answer that comes with 503 while it says that something is not ready."""

    ready: bool
