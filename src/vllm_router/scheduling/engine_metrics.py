"""Reads the few numbers used for balancing from an engine's /metrics page.

Promises: the same sums that a full Prometheus parser would give for these names, in a fraction of
its time. If a series appears twice, which the format forbids, only the last counts. A vLLM page has
50 to 100 KB and a thousand engines are scraped every ten seconds, so the page is never split into
lines: each name is searched for in the bytes, and only its lines are parsed.

Bounds: pages over 8 MiB are refused; the time is linear in the page's size, whatever it contains.

Refuses to know: the page's origin and age, and what the numbers mean for balancing.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

# A hundred times vLLM's page, which leaves room for many ranks; anything larger is not a page.
MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
# An engine runs hundreds of sequences and queues thousands. A broken engine's number goes into sums
# and status pages, where an unbounded value would corrupt the totals for all engines.
MAX_REQUESTS: Final = 1_000_000

# Rounding may push a share slightly above 1.
_MOST_USAGE: Final = 1.01

# What may follow a name on its line: labels, a value, a timestamp in milliseconds. Possessive
# quantifiers prevent backtracking on hostile labels. A newline inside a label value is escaped as
# backslash and n, so a line of bytes is a line of the format. No valid number has 64 digits.
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
# Some exporters cannot use a colon in a name.
_PREFIXES: Final = (b"vllm:", b"vllm_")


class BadExposition(ValueError):
    """The page does not show how busy the engine is."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's own metrics, over all its data-parallel ranks.

    Attributes:
        running: Sequences being decoded, one per 30 s of audio, summed over ranks.
        waiting: Sequences queued in the engine, summed over ranks.
        cache_usage: Share of the KV cache in use, 0 to 1, mean over ranks.
        preempted: Sequences put back into the queue since the engine started, summed over ranks.
        is_sleeping: Whether at least one rank sleeps and would not answer.
    """

    running: float
    waiting: float
    cache_usage: float | None = None
    is_sleeping: bool = False
    preempted: float | None = None


def read_engine_stats(text: bytes, model: str | None = None) -> EngineStats:
    """Read an engine's metrics page in the Prometheus text format.

    Args:
        text: Body of the engine's response.
        model: Count only the series with this `model_name`; None counts all.

    Returns:
        Sums over ranks. An optional value that is absent, infinite, NaN or negative is None, and
        so is a share above 1. A sleep state other than 0 or 1 is ignored.

    Raises:
        BadExposition: The page is over 8 MiB, a relevant line is malformed, or the running or
            waiting requests are absent or not a count. No other error is raised for any input.
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
    # Before 0.11, vLLM named the metric after the GPU; some releases wrote both.
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
    """One page, queried for one metric name at a time."""

    __slots__ = ("_first", "_model", "_text")

    def __init__(self, text: bytes, model: bytes | None) -> None:
        self._text = text
        self._model = model
        # No relevant sample precedes the first name with vLLM's prefix.
        at = text.find(_PREFIXES[0])
        other = text.find(_PREFIXES[1], 0, at if at >= 0 else len(text))
        self._first = other if other >= 0 else max(at, 0)

    def values(self, name: bytes) -> list[float]:
        return list(self._samples(name).values())

    def is_sleeping(self) -> bool:
        """Return whether a rank sleeps: it is not `awake`, or it is in a sleep level."""
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
            # The rest of the line cannot begin another sample, so each byte is read once.
            newline = text.find(b"\n", end)
            # The format requires a metric's lines to form one group. A comment or a name without
            # vLLM's prefix ends it, and the long histograms that follow need no search.
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
    # float() accepts underscores between digits; the format does not.
    try:
        if b"_" not in raw:
            return float(raw)
    except ValueError:
        pass
    raise BadExposition(f"a value of vllm:{name.decode()} is not a number")


def _total(values: list[float]) -> float | None:
    """Return the sum over ranks; None if there is no value, or one is not a finite count."""
    if not values or any(not math.isfinite(value) or value < 0 for value in values):
        return None
    total = sum(values)
    return total if math.isfinite(total) else None
