"""Communication between the worker processes of one router: figures on request, and operators'
orders.

Each worker listens on a Unix socket in a directory that only they may enter. A request is one line
of JSON. An answer is a line with its length in bytes, followed by that many bytes. A sibling that
does not answer in time, or whose answer breaks off, is left out: half a page of metrics would pass
for a complete one.

Bounds: 16 KiB for a request, 256 MiB for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

#: A sibling is on the same machine: if it takes longer than this, it is broken.
ANSWER_S = 2.0
MAX_QUESTION_BYTES = 16 * 1024
#: A page of metrics has about 15 KB per engine.
MAX_ANSWER_BYTES = 256 * 1024 * 1024

Answerer = Callable[[dict[str, Any]], Awaitable[bytes]]


def _only_log(error: Exception) -> None:
    log.error("failed to answer a sibling", exc_info=error)


class Siblings:
    """One worker's channel to the others.

    Args:
        folder: Directory of the sockets.
        index: This worker's number, from 0.
        count: Number of workers.
        failed: Called with an exception from a fault in the router.
    """

    def __init__(
        self,
        folder: Path,
        index: int,
        count: int,
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        self._folder = folder
        self._index = index
        self._count = count
        self._failed = failed or _only_log

    def _path(self, index: int) -> Path:
        return self._folder / f"worker-{index}.sock"

    @contextlib.asynccontextmanager
    async def listening(self, answer: Answerer) -> Any:
        """Answer the other workers while the context lasts."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    question = json.loads(await reader.readline())
                    if not isinstance(question, dict):
                        raise ValueError("the request is not a JSON object")
                    said = await answer(question)
                    writer.write(b"%d\n" % len(said))
                    writer.write(said)
                    await writer.drain()
            except (TimeoutError, OSError, ValueError, RecursionError) as e:
                log.warning("cannot answer a sibling: %s", e)
            except Exception as e:
                self._failed(e)
            finally:
                writer.close()

        path = self._path(self._index)
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(serve, path, limit=MAX_QUESTION_BYTES)
        async with server:
            yield

    async def ask_all(self, question: dict[str, Any]) -> list[bytes]:
        """Return the other workers' answers, without those that gave none."""
        others = [i for i in range(self._count) if i != self._index]
        answers = await asyncio.gather(*(self._ask(i, question) for i in others))
        return [answer for answer in answers if answer is not None]

    async def _ask(self, index: int, question: dict[str, Any]) -> bytes | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._path(index))
                try:
                    writer.write(json.dumps(question).encode() + b"\n")
                    await writer.drain()
                    size_bytes = int(await reader.readline())
                    if not 0 <= size_bytes <= MAX_ANSWER_BYTES:
                        raise ValueError(f"an answer of {size_bytes} bytes")
                    return await reader.readexactly(size_bytes)
                finally:
                    writer.close()
        except (TimeoutError, OSError, EOFError, ValueError) as e:
            log.warning("worker %d does not answer: %s", index, e)
            return None
