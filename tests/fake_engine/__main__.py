"""`python -m tests.fake_engine`: a simulated engine with vLLM's audio API.

It takes as long as a GPU would, makes its words up, and misbehaves on demand.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

import uvloop
from tests.fake_engine.curve import NAMED_CURVES, CurveShape
from tests.fake_engine.faults import Faults, FaultsError, read_faults_text
from tests.fake_engine.serving import serve_simulated

from vllm_router.local.errors import MAX_AUDIO_S


def main(argv: Sequence[str] | None = None) -> int:
    """Run an engine until it is told to stop; return the exit code."""
    options = _parser().parse_args(argv)
    try:
        uvloop.run(_serve(options))
    except OSError as error:
        print(f"fake_engine: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_engine", description=__doc__)
    parser.add_argument("--served-model-name", default="openai/whisper-small", metavar="NAME")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    parser.add_argument("--api-key", metavar="KEY", help="required on /v1 routes")
    parser.add_argument("--curve", choices=sorted(NAMED_CURVES), default="h200")
    parser.add_argument("--peak-windows-per-s", type=float, metavar="W")
    parser.add_argument("--half-at", type=float, metavar="C")
    parser.add_argument(
        "--time-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="simulated seconds that pass in one real second (default 1)",
    )
    parser.add_argument("--max-num-seqs", type=int, default=256, metavar="N")
    parser.add_argument(
        "--kv-cache-windows",
        type=int,
        default=256,
        metavar="N",
        help="30 s windows that the KV cache holds; more wait inside (default 256)",
    )
    parser.add_argument(
        "--max-audio-s",
        type=float,
        default=MAX_AUDIO_S,
        metavar="S",
        help=f"longest audio accepted, in seconds (default {MAX_AUDIO_S}, as vLLM's)",
    )
    parser.add_argument("--data-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--faults",
        type=_faults,
        default=Faults(),
        metavar="ORDER",
        help="JSON or name=value,…; see tests/fake_engine/faults.py",
    )
    return parser


def _faults(text: str) -> Faults:
    try:
        return read_faults_text(text)
    except FaultsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _serve(options: argparse.Namespace) -> None:
    named = NAMED_CURVES[options.curve]
    shape = CurveShape(
        options.peak_windows_per_s or named.peak_windows_per_s,
        named.half_at if options.half_at is None else options.half_at,
    )
    async with serve_simulated(
        options.served_model_name,
        host=options.host,
        port=options.port,
        time_scale=options.time_scale,
        curve=shape,
        max_running=options.max_num_seqs,
        cache_windows=options.kv_cache_windows,
        max_audio_s=options.max_audio_s,
        api_key=options.api_key,
        ranks=options.data_parallel_size,
        seed=options.seed,
        faults=options.faults,
    ) as engine:
        print(f"simulated engine ready on {engine.url}", flush=True)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
