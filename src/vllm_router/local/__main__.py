"""`python -m vllm_router.local`: an engine with vLLM's audio API on this machine's CPU.

With `--model` it transcribes; with `--simulate` it passes the time a GPU would need and makes the
words up.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

import uvloop

from vllm_router.local.api import MAX_AUDIO_S, Api
from vllm_router.local.curve import NAMED_CURVES, CurveShape
from vllm_router.local.faults import Faults, FaultsError, read_faults_text
from vllm_router.local.serving import Port, serve_simulated

# Work under way when an engine is told to stop: time for a window on a slow machine.
GRACE_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run an engine until it is told to stop; return the exit code."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        uvloop.run(_simulate(options) if options.simulate else _transcribe(options))
    except (OSError, _Unusable) as error:
        print(f"vllm_router.local: {error}", file=sys.stderr)
        return 2
    return 0


class _Unusable(Exception):
    """What was asked for on the command line cannot be had."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vllm_router.local", description=__doc__)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--model",
        metavar="MODEL",
        help="folder of a CTranslate2 Whisper model, or its name on the Hugging Face hub",
    )
    kind.add_argument("--simulate", action="store_true", help="no model: a service curve")
    parser.add_argument("--served-model-name", default="openai/whisper-small", metavar="NAME")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    parser.add_argument("--api-key", metavar="KEY", help="what clients must present on /v1 routes")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads of the model (default 1)"
    )
    simulated = parser.add_argument_group("with --simulate")
    simulated.add_argument("--curve", choices=sorted(NAMED_CURVES), default="h200")
    simulated.add_argument("--peak-windows-per-s", type=float, metavar="W")
    simulated.add_argument("--half-at", type=float, metavar="C")
    simulated.add_argument(
        "--time-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="simulated seconds that pass in one real second (default 1)",
    )
    simulated.add_argument("--max-num-seqs", type=int, default=256, metavar="N")
    simulated.add_argument(
        "--kv-cache-windows",
        type=int,
        default=256,
        metavar="N",
        help="30 s windows that the KV cache holds; more wait inside (default 256)",
    )
    simulated.add_argument(
        "--max-audio-s",
        type=float,
        default=MAX_AUDIO_S,
        metavar="S",
        help=f"longest audio taken, in seconds (default {MAX_AUDIO_S}, as vLLM's)",
    )
    simulated.add_argument("--data-parallel-size", type=int, default=1, metavar="N")
    simulated.add_argument("--seed", type=int, default=0)
    simulated.add_argument(
        "--faults",
        type=_faults,
        default=Faults(),
        metavar="ORDER",
        help="JSON or name=value,…; see vllm_router.local.faults",
    )
    return parser


def _faults(text: str) -> Faults:
    try:
        return read_faults_text(text)
    except FaultsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _simulate(options: argparse.Namespace) -> None:
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
        await _told_to_stop()


async def _transcribe(options: argparse.Namespace) -> None:
    try:
        # Here, so that a simulated engine needs none of the extra [local].
        from vllm_router.local.real import RealListener
        from vllm_router.local.whisper import ModelError, Whisper, find_model
    except ImportError as error:
        raise _Unusable(
            f"--model needs {error.name}: pip install 'vllm-whisper-router[local]'"
        ) from error
    try:
        listener = RealListener(Whisper(find_model(options.model), options.threads))
    except ModelError as error:
        raise _Unusable(f"--model {error}") from error
    port = Port(
        Api(listener, options.served_model_name, options.api_key), options.host, options.port
    )
    await port.listen()
    print(f"engine ready on http://{options.host}:{port.port}", flush=True)
    try:
        await _told_to_stop()
    finally:
        await port.shut(GRACE_S)
        listener.close()


async def _told_to_stop() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
