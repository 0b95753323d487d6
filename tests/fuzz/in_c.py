"""quick.c by itself: built, loaded beside quick.py, held against the parsers that know all cases.

Run as `python -m tests.fuzz.in_c SECONDS` it is built with the address and undefined behaviour
sanitizers, which end the process at the first byte read or written that is not its own.
"""

import importlib.machinery
import importlib.util
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import httptools

from vllm_router.formats import multipart, quick
from vllm_router.server.head import RequestHead, read_head

SOURCE = Path(quick.__file__).with_name("quick.c")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")


def build(folder: Path, *flags: str) -> ModuleType:
    """Compile quick.c into a folder and load it, without putting it in quick.py's place."""
    made = folder / f"quick{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    subprocess.run([*command, *flags, str(SOURCE), "-o", str(made)], check=True)
    loader = importlib.machinery.ExtensionFileLoader("quick", str(made))
    spec = importlib.util.spec_from_loader("quick", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def built() -> ModuleType:
    """Return quick.c, built once for this process."""
    return build(Path(tempfile.mkdtemp(prefix="quick-")))


class _Events:
    """One answer, as llhttp reports it."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = 0
        self.is_kept = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete += 1
        # llhttp knows only now.
        self.is_kept = self.parser.should_keep_alive()


def check_request(module: ModuleType, data: bytes) -> bool:
    """Hold a request's head against llhttp; return whether it was read."""
    read = module.usual_request(data)
    if read is None:
        return False
    method, target, headers, first, length, is_keep_alive = read
    path, _, query = target.partition(b"?")
    # Interpreted, this asks llhttp.
    assert read_head(data) == RequestHead(
        method, unquote(path.decode()), path, query, headers, length, False, is_keep_alive, "1.1"
    )
    assert first == dict(reversed(headers))
    return True


def check_answer(module: ModuleType, data: bytes) -> bool:
    """Hold an engine's answer against llhttp; return whether it was read."""
    read = module.usual_answer(data)
    if read is None:
        return False
    events = _Events()
    events.parser.feed_data(data)
    assert events.complete == 1
    assert (events.parser.get_status_code(), events.headers, events.body) == read
    assert events.is_kept
    kinds = [value for name, value in events.headers if name == b"content-type"]
    assert not any(kind.lower().startswith(b"text/event-stream") for kind in kinds)
    return True


def check_form(module: ModuleType, data: bytes) -> bool:
    """Hold a form with the boundary "b" against the reader; return whether it was read."""
    around = bytearray(b"\r\n--b" + data + b"--b--\r\n")
    read = module.usual_parts(around, b"\r\n--b", 5, 5 + len(data))
    assert module.usual_parts(data, b"\r\n--b", 0, len(data)) == read
    if read is None:
        return False
    reader = multipart.FormReader(b"b")
    reader.feed(data[:1], 0, 1)
    reader.feed(data, 1, len(data))
    form = reader.finish()
    assert form.parts == tuple(multipart.Part(*part) for part in read)
    assert form.close_at == read[-1][4]
    return True


def check(module: ModuleType, data: bytes) -> bool:
    """Hold everything that reads against who knows all cases; return whether anything was read."""
    found = [check_request(module, data), check_answer(module, data), check_form(module, data)]
    for needle in (b"\r\n--b", data[:1] or b"x", data[3:50] or b"x"):
        start, end = len(data) // 7, len(data) - len(data) // 9
        expected = data.find(needle, start, end)
        assert module.find(data, needle, start, end) == expected
        assert module.find(bytearray(data), needle, start, end) == expected
    assert module.copied(data, len(data) // 3, len(data)) == data[len(data) // 3 :]
    return any(found)


SEEDS = (
    b"POST /v1/audio/transcriptions?a=b HTTP/1.1\r\nHost: a:1\r\nUser-Agent: curl/7.88.1\r\n"
    b"Accept: */*\r\nContent-Length: 98600\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Connection: keep-alive\r\nX-One: two words\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection:close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 2\r\n"
    b"content-type: application/json\r\n\r\n{}",
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\nsound\r\n--b\r\n"
    b'content-disposition: form-data; name="model"\r\n\r\nwhisper\r\n--b--\r\n',
)


def tell(module: ModuleType, rng: random.Random) -> None:
    """Write heads and lines of any sizes."""
    headers = [(rng.randbytes(rng.randrange(40)), rng.randbytes(rng.randrange(40))) for _ in "abc"]
    start, rest = rng.randbytes(rng.randrange(90)), rng.randbytes(rng.randrange(90))
    assert module.write_head(start, headers, rest) == quick.write_head(start, headers, rest)
    values: list[Any] = [None, 0, -5, 2**63 - 1, 0.0, 0.00005, 12.34567, 1e300, "é" * 600, "x"]
    fields = tuple(word for i in range(rng.randrange(9)) for word in (f"n{i}", rng.choice(values)))
    assert module.log_line("start", fields) == quick.log_line("start", fields)


def main(seconds: float) -> None:
    """Feed mutated bytes for so long, and say how many."""
    # Not at the top: it imports what needs an engine.
    from tests.fuzz.targets import mutated

    with tempfile.TemporaryDirectory() as folder:
        module = build(Path(folder), *SANITIZERS)
        rng, tried, read = random.Random(0), 0, 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for seed in SEEDS:
                tried += 1
                read += check(module, mutated(seed, rng))
            tell(module, rng)
    print(f"{tried} {read}")


def sanitized(seconds: float) -> tuple[int, int]:
    """Run `main` in a process with the sanitizers; return the inputs tried and those read.

    Raises:
        subprocess.CalledProcessError: A promise was broken; its output says which.
    """
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    env = {
        **os.environ,
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",
        # Each object is then one allocation, whose ends the sanitizer knows.
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "tests.fuzz.in_c", str(seconds)]
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(done.stdout[-6000:])
    tried, read = map(int, done.stdout.split()[-2:])
    return tried, read


if __name__ == "__main__":
    main(float(sys.argv[1]))
