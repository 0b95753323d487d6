"""The fields of a request's form, validated as vLLM validates them.

Pure: parts in, `RequestOptions` or an `ApiError` out.
"""

from dataclasses import dataclass

from tests.fake_engine.multipart import Part

from vllm_router.local.errors import ApiError
from vllm_router.local.languages import LANGUAGES

_TRUE = frozenset(("true", "1", "on", "yes", "y", "t"))
_FALSE = frozenset(("false", "0", "off", "no", "n", "f", ""))

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The file and the options of a transcription or translation.

    `task` is transcribe or translate; `language` is None if it is to be detected.
    """

    file: Part
    task: str
    model: str
    response_format: str
    language: str | None
    prompt: str
    temperature: float
    is_streamed: bool
    include_usage: bool
    continuous_usage: bool


def validation_error(name: str, reason: str, given: object = None) -> ApiError:
    """Return the error of FastAPI's validation for a field."""
    kind = "missing" if reason == "Field required" else "value_error"
    detail = {"type": kind, "loc": ("body", name), "msg": reason, "input": given}
    message = f"1 validation error:\n  {detail}"
    return ApiError(400, message, "Bad Request", f"body.{name}")


def read_options(parts: list[Part], task: str, served: str) -> RequestOptions:
    """Validate a form.

    Args:
        parts: As received.
        task: transcribe or translate.
        served: The name of the served model.

    Raises:
        ApiError: As vLLM refuses it.
    """
    fields = {part.name: part for part in parts}
    file = fields.get("file")
    if file is None or not file.is_file:
        raise validation_error("file", "Field required")
    values = {
        name: part.value.decode("utf-8", "replace")
        for name, part in fields.items()
        if not part.is_file
    }
    response_format = values.get("response_format") or "json"
    if response_format not in RESPONSE_FORMATS:
        expected = "Input should be 'json', 'text', 'srt', 'verbose_json' or 'vtt'"
        raise validation_error("response_format", expected, response_format)
    is_streamed = _flag(values, "stream")
    include_usage = _flag(values, "stream_include_usage")
    continuous_usage = _flag(values, "stream_continuous_usage_stats")
    if (include_usage or continuous_usage) and not is_streamed:
        name = "stream_include_usage" if include_usage else "stream_continuous_usage_stats"
        message = f"Stream options can only be defined when `stream=True`. (parameter={name})"
        raise ApiError(400, message, param=name)
    model = values.get("model") or served
    if model != served:
        raise ApiError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
    if response_format in ("srt", "vtt"):
        raise ApiError(
            400, "Currently only support response_format: `text`, `json` or `verbose_json`"
        )
    if response_format == "verbose_json" and is_streamed:
        raise ApiError(400, "verbose_json format doesn't support streaming case")
    language = values.get("language") or None
    if language is not None and language not in LANGUAGES:
        raise ApiError(
            400, f"Unsupported language: {language!r}. Must be one of {list(LANGUAGES)}."
        )
    return RequestOptions(
        file=file,
        task=task,
        model=model,
        response_format=response_format,
        language=language,
        prompt=values.get("prompt", ""),
        temperature=_number(values, "temperature", 0.0),
        is_streamed=is_streamed,
        include_usage=include_usage,
        continuous_usage=continuous_usage,
    )


def _flag(values: dict[str, str], name: str) -> bool:
    value = values.get(name, "").lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    reason = "Input should be a valid boolean, unable to interpret input"
    raise validation_error(name, reason, value)


def _number(values: dict[str, str], name: str, default: float) -> float:
    value = values.get(name, "")
    try:
        return float(value) if value else default
    except ValueError:
        reason = "Input should be a valid number, unable to parse string as a number"
        raise validation_error(name, reason, value) from None
