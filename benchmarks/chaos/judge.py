"""What each reply is: the right answer, an honest refusal, or a broken promise. Pure.

Of a request that was answered, exactly the words made from its own audio must be there, each once.
Of one that was refused, the status must be one that tells the truth and the body an OpenAI error.
A connection that breaks is excused only by a router or proxy that was killed at that very time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.chaos.client import Reply
from benchmarks.chaos.uploads import Request

#: Statuses that tell the truth about trouble behind the router.
_TROUBLE = {429, 500, 502, 503, 504}


class Kind(StrEnum):
    """What became of a request."""

    RIGHT = "answered rightly"
    REFUSED = "refused honestly"
    KILLED = "cut by the kill of its router"
    LEFT = "left by the client"
    BROKEN = "VIOLATION"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement.

    Attributes:
        kind: What became of the request.
        why: The class within it, such as "503 no_engine_ready".
    """

    kind: Kind
    why: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """Seconds, monotonic, in which a router was dead without warning."""

    start: float
    end: float


def judge(request: Request, reply: Reply, kills: Sequence[Interval]) -> Verdict:
    """Return what a reply is.

    Args:
        request: What was asked.
        reply: What came.
        kills: When routers were killed.
    """
    if reply.is_doubled:
        return Verdict(Kind.BROKEN, "more than one answer")
    if reply.has_left:
        return Verdict(Kind.LEFT)
    if reply.has_hung:
        return Verdict(Kind.BROKEN, "no end by the deadline")
    if not reply.is_whole:
        if any(k.start < reply.ended_at and k.end > reply.started_at for k in kills):
            return Verdict(Kind.KILLED, "connection cut" if reply.status else "no answer")
        if reply.status is None:
            return Verdict(Kind.BROKEN, f"lost: no answer ({reply.error})")
        return Verdict(Kind.BROKEN, f"cut in its answer, status {reply.status} ({reply.error})")
    if reply.status != 200:
        return _refusal(request, reply)
    if request.expected is None:
        return Verdict(Kind.BROKEN, f"answered what must be refused with {request.refusal}")
    return _answer(request, reply)


def _refusal(request: Request, reply: Reply) -> Verdict:
    assert reply.status is not None
    try:
        error = json.loads(reply.body)["error"]
        code = error["code"]
        is_shaped = isinstance(error["message"], str) and isinstance(error["type"], str)
    except (ValueError, KeyError, TypeError):
        is_shaped, code = False, None
    if not is_shaped:
        said = reply.body[:80].decode("latin-1")
        return Verdict(Kind.BROKEN, f"{reply.status} that is no OpenAI error: {said}")
    why = f"{reply.status} {code}"
    if reply.status in _TROUBLE:
        return Verdict(Kind.REFUSED, why)
    if request.expected is None and reply.status == request.refusal:
        return Verdict(Kind.REFUSED, f"{why}, as it must be")
    return Verdict(Kind.BROKEN, f"refused untruly with {why}")


def _answer(request: Request, reply: Reply) -> Verdict:
    assert request.expected is not None
    try:
        words, failure = _words(request, reply.body.decode())
    except (ValueError, KeyError, TypeError, IndexError) as e:
        return Verdict(Kind.BROKEN, f"unreadable {request.response_format}: {e!r}")
    if failure is not None:
        # The words so far must still be a beginning of the right ones.
        if tuple(words) != request.expected[: len(words)]:
            return Verdict(Kind.BROKEN, "wrong words before an error in the stream")
        return Verdict(Kind.REFUSED, f"200, then the event {failure}")
    if tuple(words) == request.expected:
        return Verdict(Kind.RIGHT)
    return Verdict(Kind.BROKEN, _difference(words, request.expected))


def _difference(words: Sequence[str], expected: Sequence[str]) -> str:
    if len(words) < len(expected):
        return f"words are missing: {len(words)} of {len(expected)}"
    if len(words) > len(expected):
        return f"words are doubled: {len(words)} for {len(expected)}"
    return "another upload's words"


def _words(request: Request, text: str) -> tuple[list[str], str | None]:
    """Return the words of an answer, and the code of the error event that ended it, if one did."""
    if request.stream:
        return _streamed_words(request, text)
    match request.response_format:
        case "text":
            return text.split(), None
        case "srt" | "vtt":
            return _cue_words(text), None
        case _:
            value = json.loads(text)
            words = value["text"].split()
            if request.response_format == "verbose_json":
                spoken = " ".join(segment["text"] for segment in value["segments"]).split()
                if spoken != words:
                    raise ValueError("its segments are not its text")
            return words, None


def _cue_words(text: str) -> list[str]:
    words: list[str] = []
    is_cue = False
    for line in text.splitlines():
        if "-->" in line:
            is_cue = True
        elif not line.strip():
            is_cue = False
        elif is_cue:
            words += line.split()
    return words


def _streamed_words(request: Request, text: str) -> tuple[list[str], str | None]:
    said = ""
    done: str | None = None
    failure: str | None = None
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        if done is not None or failure is not None:
            if line == "data: [DONE]":
                continue
            raise ValueError("events after the last one")
        data = line[5:].strip()
        if data == "[DONE]":
            done = said
            continue
        event = json.loads(data)
        if "error" in event:
            failure = str(event["error"].get("code"))
        elif event.get("type") == "transcript.text.delta":
            said += event["delta"]
        elif event.get("type") == "transcript.text.done":
            done = event["text"]
        elif event.get("object") == "transcription.chunk":
            said += "".join(choice["delta"].get("content", "") for choice in event["choices"])
    if failure is not None:
        return said.split(), failure
    if done is None:
        raise ValueError("the stream has no last event")
    if done.split() != said.split():
        raise ValueError("its deltas are not its text")
    return said.split(), None
