"""The faults that a simulated engine can be ordered to show.

Pure: a mapping in, `Faults` out. By default a fault strikes only the audio routes, as the faults of
an engine do: `/health` of a hung vLLM still answers. With `everywhere` it strikes every route, as
if the whole process were at fault.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass


class FaultsError(ValueError):
    """An order that cannot be read; the message names the field."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of an engine; by default none.

    Attributes:
        refuse: Refuse connections, and close idle ones.
        reset_upload_at: Reset the connection after this many bytes of the body; 0 is after the
            headers.
        hang: Stop for good: "upload" reads no body, "answer" never begins to answer, "body" stops
            in the middle of the response's body.
        delay_s: Real seconds before the response begins.
        status: Answer with this status instead (see `rate`).
        rate: The share of requests that `status` strikes.
        times: Strike this many requests, then none; None never ends. Applies to all faults that
            strike single requests.
        poison: Answer uploads that contain this text with 500.
        poison_sha256: Answer the upload with this digest with 500.
        answer_bytes_per_s: Send responses at this rate.
        cut_answer_at: End the connection after this many bytes of the response.
        cut_by: "reset" or "close".
        garbage: Answer with bytes that are not HTTP.
        bad_body: Answer with a body that is not of its content type.
        length_off_by: Add this to Content-Length.
        header_bytes: Add this many bytes of headers.
        speed: Multiplies the speed; 0.25 is a quarter.
        sleeping: Sleep level 1: work waits, and the metrics report it.
        models: List these in /v1/models.
        metrics: Answer /metrics with this text.
        health_status: Answer /health with this status.
        everywhere: Strike all routes.
    """

    refuse: bool = False
    reset_upload_at: int | None = None
    hang: typing.Literal["upload", "answer", "body"] | None = None
    delay_s: float = 0.0
    status: int | None = None
    rate: float = 1.0
    times: int | None = None
    poison: str | None = None
    poison_sha256: str | None = None
    answer_bytes_per_s: float | None = None
    cut_answer_at: int | None = None
    cut_by: typing.Literal["reset", "close"] = "reset"
    garbage: bool = False
    bad_body: bool = False
    length_off_by: int = 0
    header_bytes: int = 0
    speed: float = 1.0
    sleeping: bool = False
    models: tuple[str, ...] | None = None
    metrics: str | None = None
    health_status: int | None = None
    everywhere: bool = False

    def to_json(self) -> dict[str, object]:
        """Return what differs from an engine in good health."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def read_faults(order: Mapping[str, object]) -> Faults:
    """Read an order, for example from JSON; what it does not name works.

    Raises:
        FaultsError: Unknown name, or a value of the wrong type or out of range.
    """
    hints = typing.get_type_hints(Faults)
    values: dict[str, typing.Any] = {}
    for name, value in order.items():
        if name not in hints:
            raise FaultsError(f"unknown fault {name!r}; known are {', '.join(hints)}")
        values[name] = _checked(name, value, hints[name])
    faults = Faults(**values)
    if not 0 <= faults.rate <= 1:
        raise FaultsError("rate must be from 0 to 1")
    if faults.status is not None and not 200 <= faults.status <= 599:
        raise FaultsError("status must be from 200 to 599")
    for name in ("speed", "delay_s"):
        if getattr(faults, name) < 0:
            raise FaultsError(f"{name} must not be negative")
    if faults.answer_bytes_per_s is not None and faults.answer_bytes_per_s <= 0:
        raise FaultsError("answer_bytes_per_s must be positive")
    return faults


def read_faults_text(text: str) -> Faults:
    """Read an order from the command line: JSON, or `name=value,name=value`.

    Raises:
        FaultsError: As `read_faults`, or no such form.
    """
    if text.lstrip().startswith("{"):
        try:
            order = json.loads(text)
        except json.JSONDecodeError as error:
            raise FaultsError(f"not JSON: {error}") from None
        return read_faults(order)
    order = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        try:
            order[name.strip()] = json.loads(value) if equals else True
        except json.JSONDecodeError:
            order[name.strip()] = value
    return read_faults(order)


def _checked(name: str, value: object, hint: typing.Any) -> object:
    """Return the value in the field's type."""
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
    kinds = allowed or (typing.get_args(hint) if _is_optional(hint) else (hint,))
    for kind in kinds:
        if kind is type(None) and value is None:
            return None
        if typing.get_origin(kind) is typing.Literal and value in typing.get_args(kind):
            return value
        if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
            return tuple(str(item) for item in value)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind in (int, str, bool) and type(value) is kind:
            return value
    raise FaultsError(f"{name} cannot be {value!r}")


def _is_optional(hint: typing.Any) -> bool:
    return typing.get_origin(hint) is typing.Union
