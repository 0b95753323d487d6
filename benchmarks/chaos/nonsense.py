"""Nonsense from outside that a router must survive: in its files, and in what engines report.

Each router reads its engines and its clients' keys from files of its own. They are replaced by
rename, as editors and Kubernetes do it, with content that no router should ever be shown.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import secrets
import urllib.request
from collections.abc import Sequence
from pathlib import Path

#: What every client of the chaos presents.
KEY = "chaos-key"

#: Weights, as YAML, in the place of the first engine's.
_WEIGHTS = (
    "1.0e+308", "5.0e-324", "1.0e-320", "1.0e+400", ".nan", ".inf", "-.inf", "-1", "0", "[1]",
)  # fmt: skip
_ENGINE_TEXTS = {
    "empty": b"",
    "not YAML": b"engines: [{",
    "bytes": bytes(range(256)) * 40,
    "nested deeply": b"[" * 50_000,
    "an alias bomb": b"a: &a [x, x]\n" + b"".join(
        b"%c: &%c [*%c, *%c]\n" % (c, c, c - 1, c - 1) for c in range(ord("b"), ord("z"))
    ),
    "no list": b"engines: 5\n",
    "no URL": b"engines:\n  - url: 'http://:99999/'\n",
    "a tag": b"engines: !!python/object/apply:os.abort []\n",
    "one engine twice": b"engines:\n  - url: http://127.0.0.1:1\n  - url: http://127.0.0.1:1\n",
}  # fmt: skip
_KEY_TEXTS = {
    "empty": b"",
    "bytes": bytes(range(256)) * 40,
    "no key": b"a name:\n",
    "a line without end": b"k" * 2_000_000 + b" k",
}
#: What stands in the place of a file.
_SHAPES = ("FIFO", "folder", "gone", "a link to itself", "64 MB of nothing")

_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
METRICS: Sequence[str] = (
    *(
        f"{_RUNNING} {value}\n{_WAITING} {value}\nvllm:kv_cache_usage_perc {value}\n"
        for value in ("NaN", "+Inf", "-Inf", "1e308", "-1e308", "5e-324", "1e999", "-0", "0x10", "")
    ),
    f"{_RUNNING}{{engine=\"",
    "\u2028 \0\x7f\n" * 50,
    "x 1\n" * 200_000,
    f"{_RUNNING} 1e308\n" * 10_000,
)  # fmt: skip
MODELS: Sequence[str] = (
    "",
    "null",
    "[" * 500_000,
    '{"data": {}}',
    '{"data": [{"id": 5}]}',
    '{"data": [{"id": "\\ud800"}]}',
    '{"data": [{"id": "a\\r\\nb: c"}]}',
    json.dumps({"data": [{"id": "x" * 700_000}]}),
    json.dumps({"data": [{"id": f"m{number}"} for number in range(30_000)]}),
    '{"data": [{"id": "x", "max_model_len": 1e999, "created": NaN}], "data": []}',
    "9" * 500_000,
    "\xff\xfe{",
)


class Sources:
    """The files that one router reads.

    Args:
        folder: Where they are; it is made.
        engine_urls: The engines.
        rng: Chooses the nonsense.
    """

    def __init__(self, folder: Path, engine_urls: Sequence[str], rng: random.Random) -> None:
        folder.mkdir()
        self.engines = folder / "engines.yaml"
        self.keys = folder / "keys"
        self._engine_urls = list(engine_urls)
        self._rng = rng
        self.mend_engines()
        self.mend_keys()

    def spoil_engines(self) -> str:
        """Put nonsense in the place of the engines; return what it is."""
        rng = self._rng
        lot = rng.random()
        if lot < 0.4:
            weight = rng.choice(_WEIGHTS)
            self._put(self.engines, self._listing("", weight).encode())
            return f"weight {weight}"
        return self._spoil(self.engines, _ENGINE_TEXTS)

    def spoil_keys(self) -> str:
        """Put nonsense in the place of the keys; return what it is."""
        return self._spoil(self.keys, _KEY_TEXTS)

    def mend_engines(self) -> str:
        """Write the engines with a new label, by which it is known that they were read."""
        label = secrets.token_hex(4)
        self._put(self.engines, self._listing(label).encode())
        return label

    def mend_keys(self) -> str:
        """Write the keys, and a new one by which it is known that they were read."""
        key = secrets.token_hex(8)
        self._put(self.keys, f"chaos:{KEY}\nnew:{key}\n".encode())
        return key

    def _listing(self, label: str, weight: str = "1.0") -> str:
        lines = ["engines:"]
        for index, url in enumerate(self._engine_urls):
            lines += [f"  - url: {url}", f"    weight: {'1.0' if index else weight}"]
            lines += [f'    label: "{label}"'] if label else []
        return "\n".join(lines) + "\n"

    def _spoil(self, path: Path, texts: dict[str, bytes]) -> str:
        name = self._rng.choice([*texts, *_SHAPES])
        if name in texts:
            self._put(path, texts[name])
            return name
        _remove(path)
        match name:
            case "FIFO":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "a link to itself":
                path.symlink_to(path)
            case "64 MB of nothing":
                with path.open("wb") as file:
                    file.truncate(2**26)
        return name

    def _put(self, path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        if path.is_dir():
            path.rmdir()
        fresh.replace(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def has_label(url: str, label: str) -> bool:
    """Return whether a router shows all its engines with a label."""
    try:
        with urllib.request.urlopen(f"{url}/engines", timeout=2) as answer:
            shown = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return False
    engines = shown["engines"] if isinstance(shown, dict) else shown
    return all(engine["label"] == label for engine in engines)


def takes_key(url: str, key: str) -> bool:
    """Return whether a router takes a client's key."""
    headers = {"authorization": f"Bearer {key}"}
    try:
        urllib.request.urlopen(
            urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=2
        ).close()
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return True
