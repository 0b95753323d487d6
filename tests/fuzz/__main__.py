"""Fuzz everything for so many seconds: `python -m tests.fuzz SECONDS`; see scripts/fuzz.

A third of the time goes to the parsers by atheris, a third to hostile bytes on a running router's
socket, a third to its own OpenAPI document by schemathesis. Prints how many inputs were tried;
exit code 1 if any promise was broken.
"""

import argparse
import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from tests.clients.servers import Server, router
from tests.fake_engine.serving import serve_simulated
from tests.fuzz.hostile import endless, shoot_all
from tests.fuzz.targets import targets
from tests.routers import MODEL

#: What a router may grow by under fire, in MiB: pools fill once, and metrics get their labels.
GROWTH_MIB = 40


def fuzz_parsers(seconds: float, folder: Path) -> tuple[int, list[str]]:
    """Run each target by atheris; return the inputs tried and the failures."""
    names = list(targets())
    each = max(1, int(seconds / len(names)))
    tried, failures = 0, []
    for name in names:
        place = folder / name.replace(" ", "-")
        command = [sys.executable, "-m", "tests.fuzz.coverage_guided", name, str(each), str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        count = int(found[1]) if found else 0
        tried += count
        print(f"  {name:15} {count:>10,} inputs{'' if done.returncode == 0 else '  FAILED'}")
        if done.returncode != 0 or not count:
            failures.append(
                f"{name}: inputs in {place}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
            )
    return tried, failures


def resident_mib(server: Server) -> float:
    """Return the memory that a server's first process holds."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


async def fuzz_socket(server: Server, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Send hostile bytes; return how many inputs and the failures."""
    inputs = endless(seed)
    first = await shoot_all(server.port, inputs, seconds * 0.2, 10**9)
    before = resident_mib(server)
    tally = await shoot_all(server.port, inputs, seconds * 0.8, 10**9)
    grown = resident_mib(server) - before
    failures = [f"answered by {a[:60]!r}: {d[:200]!r}" for d, a in first.bad + tally.bad]
    failures += [f"hung: {data[:200]!r}" for data in first.hung + tally.hung]
    if grown > GROWTH_MIB:
        failures.append(f"the router has grown by {grown:.0f} MiB")
    tried, answered = first.tried + tally.tried, first.answered + tally.answered
    print(f"  {tried:>10,} inputs, {answered:,} answered; memory {grown:+.1f} MiB")
    return tried, failures


async def fuzz_document(server: Server, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Run schemathesis with the router's own document; return the cases tried and the failures."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
        *("--max-time", str(max(1, int(seconds))), "--checks", "not_a_server_error"),
        *("--exclude-path-regex", "/engines/.*", "--seed", str(seed), "--no-color"),
        *("--mode", "all", "--warnings", "off", "--generation-database", "none"),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    out = (await process.stdout.read()).decode()
    code = await process.wait()
    found = re.search(r"(\d[\d,]*) generated", out)
    count = int(found[1].replace(",", "")) if found else 0
    print(f"  {count:>10,} cases")
    return count, [] if code == 0 and count else [out[-6000:]]


@contextlib.asynccontextmanager
async def serving_router(log: Path) -> AsyncIterator[Server]:
    """Run a router in a process of its own, in front of an engine in this one."""
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        server = router([engine.url], log, "--log-level", "warning", "--decode-workers", "1")
        server.start()
        try:
            await asyncio.to_thread(server.wait_until_ready, 60)
            yield server
        finally:
            await asyncio.to_thread(server.stop)


async def fuzz_router(seconds: float, folder: Path, seed: int) -> tuple[int, list[str]]:
    """Start an engine and a router and let both kinds of bytes at it."""
    log = folder / "router.log"
    async with serving_router(log) as server:
        print("hostile bytes on a router's socket:")
        tried, failures = await fuzz_socket(server, seconds / 2, seed)
        print("the router's own OpenAPI document:")
        count, more = await fuzz_document(server, seconds / 2, seed)
        tried, failures = tried + count, failures + more
        await asyncio.to_thread(server.wait_until_ready, 30)
    text = log.read_text()
    if "Traceback" in text or "a fault of the router" in text:
        failures.append("the router's log has a traceback:\n" + text[-4000:])
    return tried, failures


def main() -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where failing inputs are left")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    print("parsers, by what reaches new code:")
    tried, failures = fuzz_parsers(arguments.seconds / 3, folder)
    two_thirds = arguments.seconds * 2 / 3
    count, more = asyncio.run(fuzz_router(two_thirds, folder, arguments.seed))
    failures += more
    print(f"{tried + count:,} inputs tried, {len(failures)} failures")
    for failure in failures:
        print("-", failure)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
