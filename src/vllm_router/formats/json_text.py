"""JSON from untrusted peers, and JSON for strict clients.

Promises: parsing raises one error whatever the bytes; writing always gives valid UTF-8 and never
`NaN`, which Python would write and nearly every other parser rejects.

Bounds: none on size (the caller bounds the bytes); depth is Python's own limit.

Refuses to know: the meaning of fields.
"""

import json
from collections.abc import Mapping
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = Mapping[str, JsonValue]


class BadJson(ValueError):
    """The bytes are not a JSON object."""


def read_object(text: bytes | str) -> dict[str, JsonValue]:
    """Parse one JSON object; `NaN` and the infinities become null.

    Raises:
        BadJson: Anything but one object in valid UTF-8, or one that is nested too deeply.
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

    A lone surrogate, which JSON can escape but UTF-8 cannot encode, becomes `?`.

    Raises:
        ValueError: A number is infinite or NaN.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _no_number(_: str) -> None:
    return None
