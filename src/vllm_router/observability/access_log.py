"""One line for each finished upload, written directly to the log stream.

The format matches all other lines (see `logs`), but `logging` is bypassed: its records, caller
look-ups and formatters cost more than everything else about a small upload. Lines are batched
briefly, because a write costs as much as formatting the line. Never contains audio, prompts,
transcripts or keys.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final, TextIO

from vllm_router.observability.request_record import RequestRecord
from vllm_router.server.exchange import Exchange

#: How long a line may wait: too short for a reader to notice.
FLUSH_S: Final = 0.05
#: Lines are flushed at once when they exceed this: the kernel writes up to PIPE_BUF bytes to a pipe
#: atomically, so workers that share one never interleave their lines.
MOST_BYTES: Final = 4096


def _on_the_loop(seconds: float, flush: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, flush)


class AccessLog:
    """Writes the access log. Call `flush` before exit.

    Args:
        kind: "text" or "json".
        stream: Destination of the lines.
        wall_clock: Unix seconds.
        later: Calls a function after a number of seconds.
        lost: Called when lines could not be written.
    """

    def __init__(
        self,
        kind: str,
        stream: TextIO,
        wall_clock: Callable[[], float] = time.time,
        later: Callable[[float, Callable[[], None]], Any] = _on_the_loop,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self._stream = stream
        self._wall_clock = wall_clock
        self._later = later
        self._lost = lost
        self._waiting: list[str] = []
        self._waiting_bytes = 0
        self._is_due = False
        self._is_json = kind == "json"
        self._encode = json.JSONEncoder(ensure_ascii=False).encode
        self._second = -1
        self._moment = ""

    def write(self, exchange: Exchange, record: RequestRecord, status: int, total_s: float) -> None:
        """Write the line of a request that has ended."""
        if self._is_json:
            line = self._json(exchange, record, status, total_s)
        else:
            line = self._text(exchange, record, status, total_s)
        count = len(line) if line.isascii() else len(line.encode("utf-8", "replace"))
        if self._waiting_bytes + count > MOST_BYTES:
            self.flush()
        self._waiting.append(line)
        self._waiting_bytes += count
        if not self._is_due:
            self._is_due = True
            self._later(FLUSH_S, self._flush_due)

    def _flush_due(self) -> None:
        self._is_due = False
        self.flush()

    def flush(self) -> None:
        """Write the waiting lines."""
        if not self._waiting:
            return
        lines = "".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        try:
            self._stream.write(lines)
            self._stream.flush()
        except (OSError, ValueError):
            # A broken log is no reason to fail a request, and there is no other log to report it.
            if self._lost is not None:
                self._lost()

    def _text(self, exchange: Exchange, record: RequestRecord, status: int, total_s: float) -> str:
        now = int(self._wall_clock())
        if now != self._second:
            self._second = now
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
            self._moment = f"{moment} INFO    request"
        first_at = exchange.first_byte_at
        line = (
            f"{self._moment} request_id={record.request_id} route={record.task} status={status}"
            f" bytes={exchange.received_bytes} queue_s={record.queue_s:.4f} total_s={total_s:.4f}"
            f" client={exchange.client}"
        )
        if record.model:
            line += f" model={record.model}"
        if record.audio_s is not None:
            line += f" audio_s={record.audio_s:.4f}"
        if record.engines:
            line += f" engines={','.join(record.engines)}"
        if first_at is not None:
            line += f" first_byte_s={first_at - exchange.started_at:.4f}"
        if record.error is not None:
            line += f" error={record.error}"
        if record.windows:
            line += f" windows={record.windows}"
        is_plain = not (record.pieces or record.speech_s or record.is_verified or record.damage)
        if not is_plain or record.holder is not None or record.trace is not None:
            line += _rare_fields(record)
        # A model's name may contain a lone surrogate, which no stream can encode.
        return f"{line}\n" if line.isascii() else f"{line}\n".encode("utf-8", "replace").decode()

    def _json(self, exchange: Exchange, record: RequestRecord, status: int, total_s: float) -> str:
        at = self._wall_clock()
        second = int(at)
        if second != self._second:
            self._second = second
            self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        first_at, audio_s = exchange.first_byte_at, record.audio_s
        line = {
            "time": f"{self._moment}.{int((at - second) * 1000):03d}Z",
            "level": "info",
            "logger": "vllm_router.access",
            "message": "request",
            "request_id": record.request_id,
            "route": record.task.value,
            "status": status,
            "model": record.model or None,
            "audio_s": None if audio_s is None else round(audio_s, 3),
            "bytes": exchange.received_bytes,
            "engines": record.engines,
            "queue_s": round(record.queue_s, 4),
            "first_byte_s": None if first_at is None else round(first_at - exchange.started_at, 4),
            "total_s": round(total_s, 4),
            "error": record.error,
            "pieces": record.pieces or None,
            "channels": record.channels if record.channels > 1 else None,
            "windows": record.windows or None,
            "speech_s": round(record.speech_s, 3) if record.speech_s else None,
            "covered_s": round(record.covered_s, 3) if record.is_verified else None,
            "key": record.holder,
            "warning": record.warning,
            "client": exchange.client,
        }
        if record.trace is not None:
            line["trace_id"] = record.trace.trace_id
        return f"{self._encode(line)}\n"


def _rare_fields(record: RequestRecord) -> str:
    """Return the fields that only long, damaged, limited or traced requests have."""
    fields = {
        "pieces": record.pieces or None,
        "channels": record.channels if record.channels > 1 else None,
        "speech_s": f"{record.speech_s:.4f}" if record.speech_s else None,
        "covered_s": f"{record.covered_s:.4f}" if record.is_verified else None,
        "key": record.holder,
        "warning": record.warning,
        "trace_id": None if record.trace is None else record.trace.trace_id,
    }
    return "".join(f" {name}={value}" for name, value in fields.items() if value is not None)
