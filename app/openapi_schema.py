"""JSON Schema 2020-12, as our types and msgspec write it -> the dialect of OpenAPI 3.0.

May touch: nothing. Swagger UI 4, which is the one that a package carries, reads no newer one.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

NULL = {"type": "null"}


def as_openapi_3_0(schema: Any) -> Any:
    """The same schema without what 3.0 does not know.

    `const` becomes an `enum` of one, a null among the types becomes `nullable`, an array says what
    its items are, an empty list of required fields goes. A docstring loses its indentation.
    """
    if isinstance(schema, list):
        return [as_openapi_3_0(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: as_openapi_3_0(value) for key, value in schema.items()}
    if "const" in plain:
        plain["enum"] = [plain.pop("const")]
    if isinstance(plain.get("description"), str):
        plain["description"] = cleandoc(plain["description"])
    if plain.get("required") == []:
        del plain["required"]
    if plain.get("type") == "array":
        plain.setdefault("items", {})
    kinds = plain.get("anyOf")
    return _nullable(plain, kinds) if isinstance(kinds, list) and NULL in kinds else plain


def _nullable(plain: dict[str, Any], kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """Null is no type in 3.0 but a property of one, and nothing may stand beside a `$ref`."""
    others = [kind for kind in kinds if kind != NULL]
    if len(others) > 1:
        return plain | {"anyOf": others, "nullable": True}
    del plain["anyOf"]
    (only,) = others
    return plain | {"nullable": True} | ({"allOf": [only]} if "$ref" in only else only)
