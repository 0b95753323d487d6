"""Compile the modules that every upload goes through, with mypyc, as they are.

    python scripts/compile.py FOLDER

FOLDER gets a copy of the package with these modules' extension modules beside their sources.
Nothing is written to `src`. A module that does not compile as it is does not belong into HOT: no
source is changed for the compiler. A folder that is up to date is left as it is. Needs mypy,
setuptools, a C compiler and Python's headers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"
#: By what callgrind shows for an upload, and what an idle router does. Not here: modules with async
#: generators, which mypyc does not compile, and what runs too seldom to be worth its compilation.
HOT = (
    "requests/access.py",
    "observability/access_log.py",
    "server/cors.py",
    "observability/metrics.py",
    "requests/handler.py",
    "observability/request_metrics.py",
    "observability/fleet_observer.py",
    "observability/stats_table.py",
    "observability/counters.py",
    "scheduling/[!_]*.py",
    "server/connection.py",
    "server/exchange.py",
    "server/head.py",
    "server/listener.py",
    "upstream/answer.py",
    "spool/block_pool.py",
    "upstream/engine_connection.py",
    "upstream/http_client.py",
    "upstream/origin.py",
    "spool/upload.py",
    "scheduling/balance/*.py",
    "requests/call_watch.py",
    "requests/classify.py",
    "requests/attempts.py",
    "requests/transcription_request.py",
    "requests/headers.py",
    "requests/receive.py",
    "requests/measured_length.py",
    "requests/services.py",
    "upstream/model_capabilities.py",
    "requests/relay.py",
    "observability/request_record.py",
    "requests/transcribe.py",
    "requests/single.py",
    "requests/options.py",
    "audio/bitrate.py",
    "server/chunked.py",
    "formats/coverage.py",
    "audio/duration.py",
    "scheduling/engine_metrics.py",
    "formats/leading_space.py",
    "audio/length.py",
    "spool/multipart.py",
    "formats/plain_text.py",
    "formats/spoken_length.py",
    "formats/reported_seconds.py",
    "audio/upload_faults.py",
    "formats/usage_seconds.py",
    "audio/wav.py",
)
STAMP = "compiled-from"


def fingerprint() -> str:
    """Return what a compiled copy is made from: the sources, this file, and the Python."""
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_config_var('EXT_SUFFIX')}".encode())
    for path in (Path(__file__), *sorted(SRC.rglob("*.py"))):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def build(folder: Path) -> None:
    """Copy the package into a folder and compile there.

    Raises:
        SystemExit: By mypyc or setuptools, which have said why.
    """
    # Not at the top: tests read HOT without a compiler.
    from mypyc.build import mypycify
    from setuptools import Distribution

    package, work = folder / "vllm_router", folder / "work"
    shutil.copytree(SRC / "vllm_router", package, ignore=shutil.ignore_patterns("__pycache__"))
    hot = sorted({path for pattern in HOT for path in package.glob(pattern)})
    os.chdir(folder)
    # One group: calls between modules of one are direct. Types of libraries that are not installed
    # count as unknown; scripts/check has checked ours.
    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    options += ["--cache-dir=work/mypy", *(str(path.relative_to(folder)) for path in hot)]
    extensions = mypycify(
        options, group_name="vllm_router", opt_level="2", debug_level="0", target_dir="work/c"
    )
    for extension in extensions:
        # A compiler's new warnings are not the user's concern.
        extension.extra_compile_args += ["-w", "-Wno-error"]
        # Nobody replaces our functions at load time: calls among them need no detour.
        extension.extra_compile_args += ["-fno-semantic-interposition", "-fno-plt"]
        extension.extra_link_args += ["-Wl,-Bsymbolic"]
    command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = ".", "work/o"
    command.ensure_finalized()
    command.run()
    shutil.rmtree(work)


def main(folder: Path) -> None:
    """Bring a folder up to date."""
    stamp, now = folder / STAMP, fingerprint()
    if stamp.is_file() and stamp.read_text() == now:
        return
    # Whole or not at all, also when two builds run at once.
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="compile-") as name:
        made = Path(name, "made")
        made.mkdir()
        build(made)
        (made / STAMP).write_text(now)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
