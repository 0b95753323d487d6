"""How the process logs: text for people, or a JSON object a line, to standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any


class TextFormatter(logging.Formatter):
    """One line for people; fields of a record follow as `key=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        fields = getattr(record, "fields", None)
        if not fields:
            return line
        pairs = (f"{k}={_plain(v)}" for k, v in fields.items() if v is not None and v != [])
        return f"{line} {' '.join(pairs)}"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", None) or {}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logging(level: str, kind: str, *, with_access: bool) -> None:
    """Send every log line of this process to standard error in the form asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Calls to engines are ours to report; the loop's own warnings are for developers.
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
    if not with_access:
        logging.getLogger("vllm_router.access").setLevel(logging.WARNING)
    # These parts of a record are never shown and cost microseconds each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
