"""Derives the reason for a refusal from the words of vLLM, FastAPI and similar engines.

Promises: a result for any bytes. A refusal without a known reason is `OTHER`: it concerns the
upload and is returned to the client. A refused value (a language that does not exist) is not taken
as a refusal of its field. Bounds: only the first `MAX_BYTES` are read.

Refuses to know: how many engines must agree before a reason is believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vllm_router.formats.json_text import BadJson, JsonValue, read_object
from vllm_router.formats.language import language_code

#: A refusal is a few sentences; vLLM's longest lists a hundred languages.
MAX_BYTES: Final = 16 * 1024
#: Statuses with which engines refuse a field, a format or a size.
REFUSED: Final = frozenset({400, 413, 415, 422})
#: Limits outside these ranges are misread, in seconds and bytes.
_LEAST_S: Final = 1.0
_MOST_S: Final = 1e6
_LEAST_BYTES: Final = 1024
_MIB: Final = 2**20


class RefusalKind(StrEnum):
    """The reason for a refusal."""

    #: The `response_format` is not supported.
    FORMAT = "format"
    #: The field `language` is not supported, whatever its value.
    LANGUAGE = "language"
    #: The audio is longer than the engine accepts.
    TOO_LONG = "too_long"
    #: The file is larger than the engine accepts.
    TOO_LARGE = "too_large"
    #: This audio needs too much memory or too many tokens; implies no limit for other uploads.
    TOO_MUCH = "too_much"
    #: The model generated nothing, to which vLLM's verbose_json and json respond with an error.
    NO_WORDS = "no_words"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class EngineRefusal:
    """The reason for a refusal, and the limit that it names.

    Attributes:
        kind: The reason.
        limit: The limit in seconds or bytes; None if the refusal names none.
    """

    kind: RefusalKind
    limit: float | None = None


_OTHER: Final = EngineRefusal(RefusalKind.OTHER)

# "Audio exceeds maximum allowed duration of 600s (…)", vLLM; "Maximum clip duration (30s)
# exceeded.", its releases of early 2025; "audio duration 1800.5 seconds is longer than 1400 seconds
# which is the maximum for this model", OpenAI.
_LONG: Final = re.compile(
    r"(?:duration|length|audio|clip)\b.{0,80}\b(?:exceed|longer than|too long|maximum|limit)"
    r"|(?:exceed|longer than|too long|maximum|limit).{0,80}\b(?:duration|seconds|minutes)\b"
)
_LONG_LIMITS: Final = (
    re.compile(r"longer than (\d+(?:\.\d+)?) ?s"),
    re.compile(r"(?:maximum|max|limit|allowed|exceeds)\D{0,40}?(\d+(?:\.\d+)?) ?s(?:ec|econds)?\b"),
)
# "Maximum file size exceeded (parameter=audio_filesize_mb, value=26.3)", vLLM; "Maximum content
# size limit (26214400) exceeded (26226042 bytes read)", OpenAI; "Request Entity Too Large", nginx.
_LARGE: Final = re.compile(
    r"file ?size|content size|(?:file|audio|entity|content|body|payload|upload)\b.{0,30}\btoo "
    r"(?:large|big)|(?:exceed|larger than|bigger than).{0,40}\b(?:mb|mib|bytes|megabytes)\b"
)
_LARGE_LIMITS: Final = (
    (re.compile(r"limit \((\d{4,})\)"), 1),
    (re.compile(r"(?:maximum|max|limit|than|exceeds)\D{0,40}?(\d{4,}) ?bytes\b"), 1),
    (
        re.compile(
            r"(?:maximum|max|limit|than|exceeds)\D{0,40}?(\d+(?:\.\d+)?) ?(?:mb|mib|megabytes)\b"
        ),
        _MIB,
    ),
)
# "Audio decode exceeded 256 MiB memory limit", "Audio would allocate … MiB of PCM"; "This model's
# maximum context length is 448 tokens", "… is longer than the maximum model length of …".
_MUCH: Final = re.compile(
    r"audio decode exceeded|would allocate .{0,40}pcm|maximum (?:context|model) length"
    r"|max_model_len|context length"
)
_NOT_TAKEN: Final = re.compile(
    r"not permitted|not allowed|unexpected|unrecogni[sz]ed|extra (?:input|field)"
    r"|unknown (?:form |request )?(?:field|param|arg|key)"
    r"|unsupported (?:form |request )?(?:field|param|arg|key)"
    r"|(?:\bnot|n't|\bno) (?:\w+ ){0,2}(?:support|accept|take|allow)|not supported"
)
_LANGUAGE: Final = re.compile(r"(?<!_)\blanguage\b")
_VALUE: Final = re.compile(
    r"one of|unsupported language|(?:supported|valid|invalid|unknown|known|such) language"
)


def read_refusal(
    status: int, body: bytes, *, asked_format: str | None = None, language: str | None = None
) -> EngineRefusal:
    """Return why an engine refused an upload.

    Args:
        status: The engine's status.
        body: The response body, in any form.
        asked_format: The requested `response_format`; None if it cannot be the reason.
        language: The `language` that was sent; None if it cannot be the reason.
    """
    if status == 500:
        no_words = b"tuple index out of range" in body[:MAX_BYTES]
        return EngineRefusal(RefusalKind.NO_WORDS) if no_words else _OTHER
    if status not in REFUSED:
        return _OTHER
    words = _words(body[:MAX_BYTES])
    if language is not None and (language_code(language) is None or _quotes(words, language)):
        # The client's value is at fault, and its words in the engine's response prove nothing.
        language = asked_format = None
    if asked_format is not None and (asked_format in words or "response_format" in words):
        return EngineRefusal(RefusalKind.FORMAT)
    if _MUCH.search(words) is not None:
        return EngineRefusal(RefusalKind.TOO_MUCH)
    if _LARGE.search(words) is not None:
        return EngineRefusal(RefusalKind.TOO_LARGE, _size_limit(words))
    if language is not None and _is_field(words, language.lower()):
        return EngineRefusal(RefusalKind.LANGUAGE)
    if _LONG.search(words) is not None:
        return EngineRefusal(RefusalKind.TOO_LONG, _length_limit(words))
    return EngineRefusal(RefusalKind.TOO_LARGE) if status == 413 else _OTHER


def _is_field(words: str, value: str) -> bool:
    """Return whether the field `language` itself is refused rather than its value."""
    if _LANGUAGE.search(words) is None or _VALUE.search(words) is not None:
        return False
    if re.search(rf"\blanguage:? {re.escape(value)}\b", words) is not None:
        return False
    return _NOT_TAKEN.search(words) is not None


def _quotes(words: str, value: str) -> bool:
    return any(f"{quote}{value.lower()}{quote}" in words for quote in "'\"`")


def _length_limit(words: str) -> float | None:
    for pattern in _LONG_LIMITS:
        found = pattern.search(words)
        if found is not None and _LEAST_S <= (limit := float(found[1])) <= _MOST_S:
            return limit
    return None


def _size_limit(words: str) -> float | None:
    for pattern, unit in _LARGE_LIMITS:
        found = pattern.search(words)
        if found is not None and len(found[1]) < 20:
            limit = float(found[1]) * unit
            if limit >= _LEAST_BYTES:
                return limit
    return None


def _words(body: bytes) -> str:
    """Return a refusal's text in lower case: the values if it is JSON, else all of it."""
    try:
        said = read_object(body)
    except BadJson:
        return " ".join(body.decode("utf-8", "replace").lower().split())
    texts: list[str] = []
    # Values are read in order; `input` merely echoes the upload.
    left: list[JsonValue] = [said]
    while left:
        value = left.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list):
            left.extend(reversed(value))
        elif isinstance(value, Mapping):
            left.extend(reversed([inner for key, inner in value.items() if key != "input"]))
    return " ".join("; ".join(texts).lower().split())
