"""Classify an engine's answer at first sight: transcript, refusal, request for a pause, or failure.

The status decides; for a 200, also whether the body can be a transcript. Bounds: bodies are not
parsed; a few bytes are inspected, or the body is searched once.

Does not know the engines, or who is at fault.
"""

from typing import Final

from vllm_router.formats.media_type import is_type
from vllm_router.scheduling.work import OutcomeKind
from vllm_router.upstream.answer import Answer, denial

#: 408: a proxy in front of the engine gave up. 421, 425 and 426 concern the connection.
_NOT_OF_THE_UPLOAD: Final = frozenset({408, 421, 425, 426})


def classify(answer: Answer) -> tuple[OutcomeKind, str]:
    """Return an answer's kind, and why it must not reach the client as it is.

    The reason is empty for an answer with a transcript.
    """
    status = answer.status
    if status == 200:
        return _classify_words(answer)
    if 300 <= status < 400 or status in (401, 403, 407):
        # It concerns the router's configuration, which is not the client's business.
        return OutcomeKind.DENIED, f"it answered {status}: {denial(status)}"
    if status == 429 or (status == 503 and answer.header(b"retry-after")):
        return OutcomeKind.BUSY, f"it answered {status} and asked for a pause"
    is_of_the_upload = 200 <= status < 300 or (
        400 <= status <= 500 and status not in _NOT_OF_THE_UPLOAD
    )
    if is_of_the_upload:
        return OutcomeKind.UNDECIDED, f"it answered {status}"
    return OutcomeKind.BAD_STATUS, f"it answered {status}"


def _classify_words(answer: Answer) -> tuple[OutcomeKind, str]:
    kind, body = answer.header(b"content-type"), answer.body
    if body is not None and is_type(kind, b"application/json"):
        if body[:16].lstrip()[:1] != b"{" or body[-16:].rstrip()[-1:] != b"}":
            return OutcomeKind.RESET, "it answered incomplete JSON"
        if b'"text"' not in body and b'"segments"' not in body:
            return OutcomeKind.UNDECIDED, "it answered JSON without a transcript"
    elif is_type(kind, b"text/html"):
        return OutcomeKind.RESET, "it answered an HTML page"
    elif body is not None and not body:
        if not is_type(kind, b"text/plain"):
            return OutcomeKind.RESET, "its answer is empty"
        # This may be the transcript of silence, so another engine is asked.
        return OutcomeKind.UNDECIDED, "its answer is empty"
    return OutcomeKind.OK, ""


def asked_rest_s(answer: Answer) -> float | None:
    """Return the seconds in an answer's Retry-After; None: it has none, or a date."""
    value = answer.header(b"retry-after")
    return float(value) if value.isdigit() and len(value) < 10 else None
