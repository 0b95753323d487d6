"""Words, times and windows: one engine, the router in every format, and faster-whisper.

Joins recordings of people with pauses of silence, noise and music, sends each one to an engine and
through the router, and prints one table. Starts two real vLLM engines with OpenAI's Whisper base
and the router when no addresses are given. All figures of a table are of one run on one machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fidelity import table
from benchmarks.fidelity.ask import WAYS, Answer, Server, first_model
from benchmarks.fidelity.cases import Case, cases
from tests.clients.servers import ROOT, router, running
from tests.real.engines import START_S, engine
from tests.speech import people
from tests.speech.cues import Cue
from tests.speech.recordings import saved
from tests.speech.weights import model_folder

DOCUMENT = ROOT / "docs" / "fidelity.md"
# An engine answers no subtitles, and text as it answers json.
DIRECT_WAYS = ("json", "verbose_json")


def main() -> int:
    """Measure what the command line asks for; return the exit status."""
    options = _parser().parse_args()
    if not people.is_there():
        print(f"fidelity: {people.MISSING}", file=sys.stderr)
        return 1
    if options.quick:
        options.clips, options.shorts = min(options.clips, 12), min(options.shorts, 4)
    chosen = cases(options.seeds, options.clips, options.shorts)
    if options.cases:
        chosen = [case for case in chosen if case.name in options.cases]
    with _servers(options) as (direct, routed):
        rows = list(_measured(chosen, direct, routed))
    # Afterwards: engines that are up share the cores even when idle.
    rows += _faster_whisper(chosen, options.faster_whisper)
    rows.sort(key=lambda row: [case.name for case in chosen].index(row.case))
    made = f"{_conditions(options, chosen)}\n\n{table.markdown(rows)}\n"
    print(f"\n{made}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "fidelity.md").write_text(made)
    if options.write_docs:
        DOCUMENT.write_text(table.placed(DOCUMENT.read_text(), made))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/fidelity", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[31], metavar="N")
    parser.add_argument("--clips", type=int, default=36, help="in a long recording (default 36)")
    parser.add_argument("--shorts", type=int, default=16, help="short recordings (default 16)")
    parser.add_argument("--quick", action="store_true", help="12 clips and 4 short recordings")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="these alone, such as clean")
    parser.add_argument("--router", metavar="URL", help="of a router that runs; needs --engine")
    parser.add_argument("--engine", metavar="URL", help="of one of its engines, asked directly")
    parser.add_argument("--faster-whisper", type=Path, metavar="PYTHON", help=argparse.SUPPRESS)
    parser.add_argument("--write-docs", action="store_true", help=f"into {DOCUMENT.name}, too")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fidelity", metavar="FOLDER")
    return parser


@contextmanager
def _servers(options: argparse.Namespace) -> Iterator[tuple[Server, Server]]:
    """Give the engine that is asked directly, and the router."""
    if (options.router is None) != (options.engine is None):
        raise SystemExit("fidelity: --router and --engine belong together")
    if options.router is not None:
        direct, routed = (url.rstrip("/") for url in (options.engine, options.router))
        yield (
            Server(direct, first_model(direct), is_router=False),
            Server(routed, first_model(routed), is_router=True),
        )
        return
    with tempfile.TemporaryDirectory(prefix="fidelity-") as logs:
        engines = [engine(Path(logs) / f"engine-{number}.log") for number in range(2)]
        front = router([each.url for each in engines], Path(logs) / "router.log")
        print("starting two vLLM engines, in some minutes", file=sys.stderr, flush=True)
        with running(engines, START_S), running([front], 120):
            yield (
                Server(engines[0].url, first_model(engines[0].url), is_router=False),
                Server(front.url, first_model(front.url), is_router=True),
            )


def _measured(chosen: Sequence[Case], direct: Server, routed: Server) -> Iterator[table.Row]:
    for case in chosen:
        for server, ways in ((direct, DIRECT_WAYS), (routed, WAYS)):
            for way in ways:
                figures = tuple(
                    table.judged(recording, server.ask(recording, way))
                    for recording in case.recordings
                )
                asked = f"router, {way}" if server.is_router else f"engine, {way}"
                yield _told(table.Row(case.name, asked, figures))


def _faster_whisper(chosen: Sequence[Case], python: Path | None) -> list[table.Row]:
    """Run faster-whisper over the recordings in its own environment."""
    if python is None:
        return []
    with tempfile.TemporaryDirectory(prefix="fidelity-") as scratch:
        truth = {}
        for case in chosen:
            folder = Path(scratch) / case.name
            folder.mkdir()
            for at, recording in enumerate(case.recordings):
                # Names of joined recordings may repeat within a case.
                place = folder / str(at)
                place.mkdir()
                truth[str(saved(recording, place))] = (case, recording)
        command = [str(python), str(Path(__file__).with_name("faster.py")), str(model_folder())]
        done = subprocess.run(
            [*command, *truth],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    figures: dict[tuple[str, str], list[table.Figure]] = {}
    for line in done.stdout.splitlines():
        heard = json.loads(line)
        case, recording = truth[heard["file"]]
        cues = tuple(Cue(*segment) for segment in heard["segments"])
        answer = Answer(heard["text"], cues, None, heard["seconds"])
        figures.setdefault((case.name, heard["mode"]), []).append(table.judged(recording, answer))
    return [
        _told(table.Row(case, f"faster-whisper, {mode}", tuple(listed)))
        for (case, mode), listed in figures.items()
    ]


def _told(row: table.Row) -> table.Row:
    print("  ".join(row.cells()), file=sys.stderr, flush=True)
    return row


def _conditions(options: argparse.Namespace, chosen: Sequence[Case]) -> str:
    """Say what was measured on what, in one sentence."""
    lengths = ", ".join(f"{case.name} {case.duration_s:.0f} s" for case in chosen)
    seeds = " ".join(map(str, options.seeds))
    return (
        f"Measured on {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of "
        f"{platform.machine()}, seeds {seeds}: {lengths}."
    )


if __name__ == "__main__":
    sys.exit(main())
