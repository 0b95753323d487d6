"""`python -m vllm_router.local`: a Whisper engine with vLLM's audio API on the CPU."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

# Time for the request in hand when the engine is told to stop: a chunk on a slow machine.
GRACE_S = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engine until it is told to stop; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--simulate" in arguments:
        arguments.remove("--simulate")
        return _simulate(arguments)
    options = _parser().parse_args(arguments)
    try:
        import uvicorn

        from vllm_router.local.app import create_app
        from vllm_router.local.transcriber import CpuTranscriber
        from vllm_router.local.whisper import ModelError, Whisper, find_model
    except ImportError as error:
        return _fail(f"{error.name} is missing: pip install 'vllm-whisper-router[local]'")
    try:
        model = Whisper(find_model(options.model), options.threads)
    except ModelError as error:
        return _fail(f"--model {error}")
    app = create_app(CpuTranscriber(model), options.served_model_name, options.api_key)
    uvicorn.run(app, host=options.host, port=options.port, timeout_graceful_shutdown=GRACE_S)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vllm_router.local",
        description="A Whisper engine with vLLM's audio API on the CPU.",
        epilog="--simulate runs the simulated engine of a checkout, with the flags of "
        "`python -m tests.fake_engine`.",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="folder of a CTranslate2 Whisper model, or its name on the Hugging Face hub",
    )
    parser.add_argument("--served-model-name", default="openai/whisper-small", metavar="NAME")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default 8000)")
    parser.add_argument("--api-key", metavar="KEY", help="required on /v1 routes")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads of the model (default 1)"
    )
    return parser


def _simulate(arguments: Sequence[str]) -> int:
    """Run the simulated engine, which lives with the tests of a checkout.

    The flag has outlived the engine's move there, because benchmark commands use it.
    """
    # The checkout is the working directory, or the one of an editable installation.
    for checkout in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (checkout / "tests" / "fake_engine" / "__main__.py").is_file():
            sys.path.insert(0, str(checkout))
            fake_engine = importlib.import_module("tests.fake_engine.__main__")
            return int(fake_engine.main(arguments))
    return _fail(
        "--simulate needs a checkout of the repository: the simulated engine is not installed; "
        "run `python -m tests.fake_engine` there"
    )


def _fail(message: str) -> int:
    print(f"vllm_router.local: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
