"""An engine's /metrics page -> the few numbers the router balances by.

Promises: the sums a full Prometheus parser would give for these names, in a fraction of its time;
of a series that stands twice, which the format forbids, only the last counts.
A vLLM page is 50 to 100 KB and a thousand engines are scraped every ten seconds, so the page is
never split into lines: each wanted name is searched in the bytes, and only its lines are read.

Bounds: pages over 8 MiB are refused; the time is linear in the page whatever it holds.

Refuses to know: where the page came from, how old it is, what the numbers mean for balancing.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

# Two thousand times vLLM's page would still be honest for many ranks; past this it is not a page.
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
# An engine runs some hundreds of sequences and lets some thousands wait. What a broken one claims
# goes into sums and pages, where a number without bound would spoil everybody's.
MAX_REQUESTS: Final = 1_000_000

# A share that rounding has left above 1 is still one.
_MOST_USAGE: Final = 1.01

# What may follow a name on its line: labels, a value, a timestamp in milliseconds. Possessive
# quantifiers keep hostile labels from backtracking. A newline inside a label value is written as
# backslash and n, so a line of bytes is a line of the format. No honest number has 64 digits.
_REST: Final = re.compile(
    rb"""
    [ \t]*+ (?: \{ ( [^"}\n]*+ (?: "[^"\\\n]*+ (?: \\[^\n] [^"\\\n]*+ )*+" [^"}\n]*+ )*+ ) \} )?
    [ \t]*+ ( [^ \t\r\n]{1,64}+ )
    (?: [ \t]++ -?[0-9]++ )?
    [ \t\r]*+ (?= \n | \Z )
    """,
    re.VERBOSE,
)
_LABEL: Final = re.compile(
    rb'([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
)
_ESCAPE: Final = re.compile(rb'\\([n"\\])')
_GROUP_GOES_ON: Final = (b"v", b" ", b"\t")
_NAME_ENDS: Final = (b"{", b" ", b"\t")
# Some exporters cannot write a colon in a name.
_PREFIXES: Final = (b"vllm:", b"vllm_")


class BadExposition(ValueError):
    """The page does not tell how busy the engine is."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What one engine says of itself, over all its data-parallel ranks.

    Attributes:
        running: Sequences being decoded; one per 30 s of audio, summed over ranks.
        waiting: Sequences queued in the engine, summed over ranks.
        cache_usage: Share of the KV cache in use, 0 to 1, the mean of the ranks.
        preempted: Sequences put back into the queue since the engine began, summed over ranks.
        is_sleeping: At least one rank is put to sleep and would not answer.
    """

    running: float
    waiting: float
    cache_usage: float | None = None
    is_sleeping: bool = False
    preempted: float | None = None


def read_engine_stats(text: bytes, model: str | None = None) -> EngineStats:
    """Read an engine's metrics page in the Prometheus text format.

    Args:
        text: The body of the engine's answer.
        model: Count only the series of this `model_name`; None counts all.

    Returns:
        The sums over ranks. What is optional and absent, infinite, NaN or negative is None, and so
        is a share above 1. A state of sleep that is neither 0 nor 1 says nothing.

    Raises:
        BadExposition: the page is over 8 MiB, one of the lines wanted is malformed, or the running
            or waiting requests are absent or no count. Nothing else is raised, on any bytes.
    """
    if len(text) > MAX_PAGE_BYTES:
        raise BadExposition(f"the page has {len(text)} bytes, over {MAX_PAGE_BYTES}")
    page = _Page(text, None if model is None else model.encode("utf-8", "surrogatepass"))
    running = _total(page.values(b"num_requests_running"))
    waiting = _total(page.values(b"num_requests_waiting"))
    if running is None or waiting is None:
        absent = "num_requests_running" if running is None else "num_requests_waiting"
        raise BadExposition(f"no usable vllm:{absent} on the page")
    if running + waiting > MAX_REQUESTS:
        raise BadExposition(f"{running + waiting:g} requests are more than any engine has")
    # vLLM before 0.11 called the cache by the GPU's name; some releases wrote both.
    usage = page.values(b"kv_cache_usage_perc") or page.values(b"gpu_cache_usage_perc")
    usage_total = _total(usage)
    if usage_total is not None and max(usage) > _MOST_USAGE:
        usage_total = None
    return EngineStats(
        running=running,
        waiting=waiting,
        cache_usage=None if usage_total is None else min(1.0, usage_total / len(usage)),
        is_sleeping=page.is_sleeping(),
        preempted=_total(page.values(b"num_preemptions_total")),
    )


class _Page:
    """One page, asked for the samples of one name at a time."""

    __slots__ = ("_first", "_model", "_text")

    def __init__(self, text: bytes, model: bytes | None) -> None:
        self._text = text
        self._model = model
        # Nothing wanted comes before the first name of vLLM's.
        at = text.find(_PREFIXES[0])
        other = text.find(_PREFIXES[1], 0, at if at >= 0 else len(text))
        self._first = other if other >= 0 else max(at, 0)

    def values(self, name: bytes) -> list[float]:
        return list(self._samples(name).values())

    def is_sleeping(self) -> bool:
        """Say whether a rank sleeps: it is not `awake`, or in one of the kinds of sleep."""
        for labels, value in self._samples(b"engine_sleep_state").items():
            is_awake = _label(labels, b"sleep_state") == b"awake"
            if value == (0.0 if is_awake else 1.0):
                return True
        return False

    def _samples(self, name: bytes) -> dict[bytes, float]:
        text = self._text
        found: dict[bytes, float] = {}
        at = text.find(name, self._first)
        while at >= 0:
            end = at + len(name)
            if self._begins_line(at) and text[end : end + 1] in _NAME_ENDS:
                match = _REST.match(text, end)
                if match is None:
                    raise BadExposition(f"a line of vllm:{name.decode()} is malformed")
                labels = match[1] or b""
                if self._model is None or _label(labels, b"model_name") == self._model:
                    found[labels] = _number(match[2], name)
            # The rest of the line cannot begin another sample: each byte is looked at once.
            newline = text.find(b"\n", end)
            # A metric's lines are one group, says the format: a comment or a name that cannot be
            # vLLM's ends it, and the long histograms behind need no look.
            if newline < 0 or (found and text[newline + 1 : newline + 2] not in _GROUP_GOES_ON):
                break
            at = text.find(name, newline + 1)
        return found

    def _begins_line(self, at: int) -> bool:
        text, begin = self._text, at - len(_PREFIXES[0])
        if begin < 0 or not text.startswith(_PREFIXES, begin):
            return False
        while begin and text[begin - 1] in b" \t":
            begin -= 1
        return begin == 0 or text[begin - 1] == 0x0A


def _label(labels: bytes, name: bytes) -> bytes | None:
    for match in _LABEL.finditer(labels):
        if match[1] == name:
            return _ESCAPE.sub(lambda m: b"\n" if m[1] == b"n" else m[1], match[2])
    return None


def _number(raw: bytes, name: bytes) -> float:
    # float() takes underscores between digits; the format does not.
    try:
        if b"_" not in raw:
            return float(raw)
    except ValueError:
        pass
    raise BadExposition(f"a value of vllm:{name.decode()} is not a number")


def _total(values: list[float]) -> float | None:
    """Sum what is a finite count in every rank; None when there is none, or one is not."""
    if not values or any(not math.isfinite(value) or value < 0 for value in values):
        return None
    total = sum(values)
    return total if math.isfinite(total) else None
