"""What a client asked for: the form's fields, checked as vLLM's request class checks them.

Pure: parts in, an `Ask` or an `ApiError` out.
"""

from dataclasses import dataclass

from vllm_router.local.form import Part

_TRUE = frozenset(("true", "1", "on", "yes", "y", "t"))
_FALSE = frozenset(("false", "0", "off", "no", "n", "f", ""))

RESPONSE_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")

# Whisper's languages, in the order of its vocabulary.
_CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th "
    "ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr "
    "pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt "
    "haw ln ha ba jw su yue"
)
LANGUAGES = tuple(_CODES.split())


class ApiError(Exception):
    """A refusal in vLLM's shape.

    Args:
        status: HTTP status, repeated as `code` in the body.
        message: For people.
        kind: `type` of the body.
        param: The field at fault, None when there is no such.
    """

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return {"error": error}


@dataclass(frozen=True, slots=True)
class Ask:
    """A transcription or translation that was asked for.

    `task` is transcribe or translate; `language` is None when it is to be detected.
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


def unprocessed(name: str, reason: str, given: object = None) -> ApiError:
    """Return the refusal that FastAPI's validation makes of a field."""
    kind = "missing" if reason == "Field required" else "value_error"
    detail = {"type": kind, "loc": ("body", name), "msg": reason, "input": given}
    message = f"1 validation error:\n  {detail}"
    return ApiError(400, message, "Bad Request", f"body.{name}")


def read_ask(parts: list[Part], task: str, served: str) -> Ask:
    """Check a form.

    Args:
        parts: As received.
        task: transcribe or translate.
        served: The name of the model that is served.

    Raises:
        ApiError: As vLLM would refuse it.
    """
    fields = {part.name: part for part in parts}
    file = fields.get("file")
    if file is None or not file.is_file:
        raise unprocessed("file", "Field required")
    values = {
        name: part.value.decode("utf-8", "replace")
        for name, part in fields.items()
        if not part.is_file
    }
    response_format = values.get("response_format") or "json"
    if response_format not in RESPONSE_FORMATS:
        expected = "Input should be 'json', 'text', 'srt', 'verbose_json' or 'vtt'"
        raise unprocessed("response_format", expected, response_format)
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
    return Ask(
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
    raise unprocessed(name, reason, value)


def _number(values: dict[str, str], name: str, default: float) -> float:
    value = values.get(name, "")
    try:
        return float(value) if value else default
    except ValueError:
        reason = "Input should be a valid number, unable to parse string as a number"
        raise unprocessed(name, reason, value) from None
