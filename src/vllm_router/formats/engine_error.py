"""An engine's error response, in OpenAI's format.

vLLM uses that format; its older releases, FastAPI itself, proxies before the engine, and other
servers do not. Their message is kept if it is plain and short; HTML, dumps and addresses inside the
cluster are replaced by a general sentence. Bounds: a kept sentence has at most
`MAX_SENTENCE_CHARS`. Refuses to know: which statuses count against an engine.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vllm_router.errors import RouterError
from vllm_router.formats.json_text import BadJson, JsonObject, JsonValue, read_object, write_object

#: A longer text is a page or a traceback rather than a sentence for the client.
MAX_SENTENCE_CHARS: Final = 300
#: The longest message that is kept from an error that nearly has OpenAI's format.
MAX_MESSAGE_CHARS: Final = 1000
_MAX_WORD_CHARS: Final = 100
#: Statuses caused only by a wrong key between the router and its engine, or by a proxy there.
_ABOUT_THE_ROUTER: Final = frozenset({401, 403, 407})
#: FastAPI lists every missing field; the first ones suffice.
_MAX_DETAILS: Final = 3
_FIELDS: Final = frozenset({"message", "type", "param", "code"})
#: Markup, tracebacks, and apparent addresses: a URL, an IP address, a cluster name.
_UNFIT: Final = re.compile(
    r"</?[a-zA-Z!]|Traceback \(|://|\b\d{1,3}(?:\.\d{1,3}){3}\b|\[[0-9a-fA-F:]*::?[0-9a-fA-F:.]*\]"
    r"|\blocalhost\b|\.svc\b|\.local\b|\.internal\b"
)


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's reason for rejecting an upload.

    Attributes:
        message: One sentence.
        error_type: OpenAI's `type`.
        param: The field at fault; None if unknown.
        body: JSON in OpenAI's format: the engine's own bytes if they have it.
        is_verbatim: Whether `body` is the engine's response.
    """

    message: str
    error_type: str
    param: str | None
    body: bytes
    is_verbatim: bool


def is_for_clients(status: int) -> bool:
    """Return whether a status rejects the upload itself.

    Other statuses do not concern the client: a redirect leads to an internal address, and 401, 403
    and 407 request a key from the router.
    """
    return 400 <= status < 600 and status not in _ABOUT_THE_ROUTER


def lacks_model(answer: bytes) -> bool:
    """Return whether an engine's 404 means that it does not have the requested model."""
    try:
        said: JsonObject = read_object(answer)
    except BadJson:
        return False
    error = said.get("error")
    inner = error if isinstance(error, Mapping) else said
    if inner.get("param") == "model" or inner.get("code") == "model_not_found":
        return True
    message = inner.get("message")
    return isinstance(message, str) and "model" in message.lower()


def read_engine_error(status: int, answer: bytes) -> EngineError:
    """Return an engine's error in OpenAI's format.

    Args:
        status: The engine's status, which supplies missing fields.
        answer: Its body, in any format.
    """
    usual_type = _usual_type(status)
    try:
        said: JsonObject = read_object(answer)
    except BadJson:
        text = answer[: 4 * MAX_SENTENCE_CHARS + 1].decode("utf-8", "replace")
        return _made(plain_sentence(text) or _general(status), usual_type, None, "engine_refused")
    error = said.get("error")
    inner = error if isinstance(error, Mapping) else said
    message = inner.get("message")
    param, code, kind = inner.get("param"), inner.get("code"), inner.get("type")
    param = param if isinstance(param, str) else None
    kind = kind if isinstance(kind, str) and kind else usual_type
    if isinstance(message, str) and message:
        if inner is error and inner.keys() >= _FIELDS:
            return EngineError(message, kind, param, answer, True)
        # Nearly OpenAI's format, so the message is the engine's own.
        is_alike = inner is error or said.get("object") == "error"
        words = _bounded(message) if is_alike else plain_sentence(message)
    else:
        words = _other_words(said)
    if isinstance(code, str):
        code = _word(code)
    return _made(
        words or _general(status),
        _word(kind) or usual_type,
        None if param is None else _word(param),
        code if isinstance(code, str | int) else "engine_refused",
    )


def plain_sentence(text: str) -> str | None:
    """Return an engine's text on one line if it is fit for clients, else None."""
    words = " ".join(text.split())
    if not words or len(words) > MAX_SENTENCE_CHARS:
        return None
    if not words.isprintable() or "\ufffd" in words or words[0] in "{[" or _UNFIT.search(words):
        return None
    return words


def _bounded(message: str) -> str | None:
    """Return an engine's message on one line, cut to its bound; None if it is a traceback."""
    words = " ".join(message.split())
    if "Traceback (" in words or not words.isprintable() or "\ufffd" in words:
        return None
    return words[:MAX_MESSAGE_CHARS]


def _word(text: str) -> str | None:
    """Return a short name unchanged; None if it is something else."""
    return text if text.isprintable() and 0 < len(text) <= _MAX_WORD_CHARS else None


def _made(message: str, kind: str, param: str | None, code: str | int) -> EngineError:
    error: dict[str, JsonValue] = {"message": message, "type": kind, "param": param, "code": code}
    return EngineError(message, kind, param, write_object({"error": error}), False)


def _other_words(said: JsonObject) -> str | None:
    """Return the message of an error in another format; None if there is no suitable one."""
    for name in ("error", "detail", "title"):
        value = said.get(name)
        if isinstance(value, list):
            value = "; ".join(_detail(each) for each in value[:_MAX_DETAILS])
        if isinstance(value, str) and (words := plain_sentence(value)):
            return words
    return None


def _detail(each: JsonValue) -> str:
    """Return one of FastAPI's details as "field: message"."""
    if not isinstance(each, Mapping):
        return ""
    place, words = each.get("loc"), each.get("msg")
    # The first part is "body".
    names = [str(part) for part in place[1:]] if isinstance(place, list) else []
    return f"{'.'.join(names)}: {words}" if names else str(words or "")


def _usual_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _general(status: int) -> str:
    if status >= 500:
        return f"The engine failed on the upload with status {status}."
    return f"The engine refused the upload with status {status}."


class EngineRefused(RouterError):
    """An engine's own error, in OpenAI's format.

    A status that is not for clients becomes 502.

    Args:
        status: The engine's status.
        answer: Its body.
    """

    code = "engine_refused"

    def __init__(self, status: int, answer: bytes) -> None:
        if not is_for_clients(status):
            words = f"The engine responded with status {status}, which does not concern the upload."
            status, answer = 502, words.encode()
        said = read_engine_error(status, answer)
        super().__init__(said.message[:1000], param=said.param)
        self.status = status
        self.error_type = said.error_type
        self.is_verbatim = said.is_verbatim
        self._body = said.body

    def body(self) -> bytes:
        """Return the error as JSON: the engine's own bytes if they have the format."""
        return self._body
