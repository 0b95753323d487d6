"""JSON from a peer one does not trust, and JSON to a client who parses strictly.

Promises: reading raises one error whatever the bytes; writing always gives valid UTF-8 and never
`NaN`, which Python would write and nearly every other reader refuses.

Bounds: none on size (the caller has bounded the bytes); depth is Python's own.

Refuses to know: what any field means.
"""

import json
from collections.abc import Mapping
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]


class BadJson(ValueError):
    """The bytes are no JSON object."""


def read_object(text: bytes | str) -> dict[str, JsonValue]:
    """Read one JSON object; `NaN` and the infinities are read as null.

    Raises:
        BadJson: anything else than one object in valid UTF-8, or one nested too deep to read.
    """
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadJson("not JSON") from error
    if not isinstance(value, dict):
        raise BadJson("not a JSON object")
    return value


def write_object(value: JsonObject) -> bytes:
    """Write compact JSON on one line, in UTF-8.

    Half of a surrogate pair, which JSON can escape and UTF-8 cannot hold, becomes `?`.

    Raises:
        ValueError: a number is infinite or NaN.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _no_number(_: str) -> None:
    return None
