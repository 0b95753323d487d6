"""One line for each finished upload, written straight to the log's stream.

In the form of all other lines (see `logs`) but not by way of `logging`, whose records, look-ups of
the caller and formatters cost more than all else that is done for a small upload. Never audio,
prompts, words or keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

from vllm_router.inbound.exchange import Exchange
from vllm_router.proxy.story import Story


class AccessLog:
    """Writes the lines.

    Args:
        kind: "text" or "json".
        stream: Where they go, line by line.
        wall_clock: Unix seconds.
    """

    def __init__(
        self, kind: str, stream: TextIO, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._stream = stream
        self._wall_clock = wall_clock
        self._is_json = kind == "json"
        self._encode = json.JSONEncoder(ensure_ascii=False).encode
        self._second = -1
        self._moment = ""

    def write(self, exchange: Exchange, story: Story, status: int, total_s: float) -> None:
        """Write the line of a request that has ended."""
        if self._is_json:
            line = self._json(exchange, story, status, total_s)
        else:
            line = self._text(exchange, story, status, total_s)
        # A log that cannot be written is no reason to fail a request. Not by contextlib: this is
        # done for each.
        try:  # noqa: SIM105
            self._stream.write(line)
        except (OSError, ValueError):
            pass

    def _text(self, exchange: Exchange, story: Story, status: int, total_s: float) -> str:
        now = int(self._wall_clock())
        if now != self._second:
            self._second = now
            self._moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        line = (
            f"{self._moment} INFO    request request_id={story.request_id} route={story.task}"
            f" status={status} bytes={exchange.received_bytes}"
            f" queue_s={_fixed(story.queue_s, 10_000)} total_s={_fixed(total_s, 10_000)}"
            f" client={exchange.client}"
        )
        if story.model:
            line += f" model={story.model}"
        if story.audio_s is not None:
            line += f" audio_s={_fixed(story.audio_s, 1_000)}"
        if story.engines:
            line += f" engines={','.join(story.engines)}"
        if exchange.first_byte_at is not None:
            line += f" first_byte_s={_fixed(exchange.first_byte_at - exchange.started_at, 10_000)}"
        if story.error is not None:
            line += f" error={story.error}"
        if story.pieces:
            line += f" pieces={story.pieces}"
        if story.holder is not None:
            line += f" key={story.holder}"
        if story.trace is not None:
            line += f" trace_id={story.trace.trace_id}"
        return line + "\n"

    def _json(self, exchange: Exchange, story: Story, status: int, total_s: float) -> str:
        at = self._wall_clock()
        second = int(at)
        if second != self._second:
            self._second = second
            self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        first_at, audio_s = exchange.first_byte_at, story.audio_s
        line = {
            "time": f"{self._moment}.{int((at - second) * 1000):03d}Z",
            "level": "info",
            "logger": "vllm_router.access",
            "message": "request",
            "request_id": story.request_id,
            "route": story.task.value,
            "status": status,
            "model": story.model or None,
            "audio_s": None if audio_s is None else round(audio_s, 3),
            "bytes": exchange.received_bytes,
            "engines": story.engines,
            "queue_s": round(story.queue_s, 4),
            "first_byte_s": None if first_at is None else round(first_at - exchange.started_at, 4),
            "total_s": round(total_s, 4),
            "error": story.error,
            "pieces": story.pieces or None,
            "key": story.holder,
            "client": exchange.client,
        }
        if story.trace is not None:
            line["trace_id"] = story.trace.trace_id
        return f"{self._encode(line)}\n"


def _fixed(value: float, scale: int) -> str:
    """Return a number that is not negative with as many decimals as `scale` has noughts.

    By whole numbers: compiled, that takes half the time of a format.
    """
    ticks = int(value * scale + 0.5)
    return f"{ticks // scale}.{str(scale + ticks % scale)[1:]}"
