"""JSON Schema 2020-12, as our types and msgspec write it -> the dialect of OpenAPI 3.0.

May touch: nothing. Swagger UI 4, which is the one that a package carries, reads no newer one.
"""

from __future__ import annotations

from typing import Any


def as_openapi_3_0(schema: Any) -> Any:
    """The same schema without what 3.0 does not know.

    `const` becomes an `enum` of one, a null among the types becomes `nullable`, `prefixItems` are
    left out (the number of items stays), and an array says what its items are.
    """
    if isinstance(schema, list):
        return [as_openapi_3_0(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: as_openapi_3_0(value) for key, value in schema.items() if key != "prefixItems"}
    if "const" in plain:
        plain["enum"] = [plain.pop("const")]
    kinds = plain.get("anyOf")
    if isinstance(kinds, list) and {"type": "null"} in kinds:
        plain["anyOf"] = [kind for kind in kinds if kind != {"type": "null"}]
        plain["nullable"] = True
        if len(plain["anyOf"]) == 1:
            plain |= plain.pop("anyOf")[0]
    if plain.get("type") == "array":
        plain.setdefault("items", {})
    return plain
