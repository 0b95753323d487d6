"""What an engine's answer says at first sight: words, a refusal, a wish to rest, or a failure.

The status decides, and for a 200 whether the body can be a transcript at all. Bounds: no body is
parsed; a few bytes of it are looked at, or one search through it.

Refuses to know: engines, and who is to blame.
"""

from typing import Final

from vllm_router.formats.media_type import is_type
from vllm_router.scheduling.work import OutcomeKind
from vllm_router.upstream.answer import Answer, denial

#: 408: a proxy in front of the engine gave up. 421, 425 and 426 speak of the connection.
_NOT_OF_THE_UPLOAD: Final = frozenset({408, 421, 425, 426})


def classify(answer: Answer) -> tuple[OutcomeKind, str]:
    """Return what an answer says, and why it must not go to the client as it is.

    The second is empty for an answer with words.
    """
    status = answer.status
    if status == 200:
        return _classify_words(answer)
    if 300 <= status < 400 or status in (401, 403, 407):
        # It says how the router is set up, which is not the client's business.
        return OutcomeKind.DENIED, f"it answered {status}: {denial(status)}"
    if status == 429 or (status == 503 and answer.header(b"retry-after")):
        return OutcomeKind.BUSY, f"it answered {status} and wants to be asked later"
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
            return OutcomeKind.RESET, "it answered JSON that is not whole"
        if b'"text"' not in body and b'"segments"' not in body:
            return OutcomeKind.UNDECIDED, "it answered JSON without a transcript"
    elif is_type(kind, b"text/html"):
        return OutcomeKind.RESET, "it answered with a web page"
    elif body is not None and not body:
        if not is_type(kind, b"text/plain"):
            return OutcomeKind.RESET, "its answer is empty"
        # Of silence this may be all there is to say, so another engine is asked.
        return OutcomeKind.UNDECIDED, "its answer is empty"
    return OutcomeKind.OK, ""


def asked_rest_s(answer: Answer) -> float | None:
    """Return how many seconds an answer's Retry-After names; None: none, or a date."""
    value = answer.header(b"retry-after")
    return float(value) if value.isdigit() and len(value) < 10 else None
