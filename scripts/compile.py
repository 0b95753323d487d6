"""Compile the modules that every upload goes through, with mypyc.

    python scripts/compile.py FOLDER
    python scripts/compile.py --check      says what is missing for it, if anything

FOLDER gets a copy of the package with these modules' extension modules beside their sources.
Nothing is written to `src`: what is edited there is always what runs from there. The sources stay
plain Python and the one truth, and run interpreted too. A folder that is up to date is left as it
is. Needs mypy, setuptools, a C compiler and Python's headers.
"""

from __future__ import annotations

import ast
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
    "observability/stats_table.py",
    "observability/counters.py",
    "engines/[!_]*.py",
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
    "policy/[!_]*.py",
    "policy/balance/*.py",
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


def missing() -> str | None:
    """Return what is not there that compiling needs, None if all is."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None:
        return f"no C compiler ({compiler.split()[0]})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "no Python.h (Debian: python3-dev)"
    return None


def with_inits(source: str) -> str:
    """Return a module whose dataclasses have their `__init__` written out, line for line the same.

    mypyc leaves the one that `dataclass` makes interpreted, which was a fifth of an upload's
    instructions. It sets plain attributes, so that what is frozen is not: mypy has seen that nobody
    writes to it.
    """
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "dataclass":
                assert isinstance(node, ast.ClassDef)
                options = {str(o.arg): ast.literal_eval(o.value) for o in decorator.keywords}
                if options.pop("frozen", False) and options.get("eq", True):
                    options["unsafe_hash"] = True
                options.pop("slots", None)
                options["init"] = False
                text = ", ".join(f"{name}={value}" for name, value in options.items())
                lines[decorator.lineno - 1] = f"@dataclass({text})"
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                # A blank line follows the fields, or the file's end.
                behind = fields[-1].end_lineno or 0
                assert not lines[behind].strip(), f"{node.name}: no blank line behind its fields"
                lines[behind] = f"    {_init_of(fields)}"
    return "\n".join(lines)


def _init_of(fields: list[ast.AnnAssign]) -> str:
    taken, steps = ["self"], []
    for field in fields:
        name, kind = ast.unparse(field.target), ast.unparse(field.annotation)
        given, default = name, None if field.value is None else ast.unparse(field.value)
        if isinstance(field.value, ast.Call) and ast.unparse(field.value.func) == "field":
            options = {option.arg: ast.unparse(option.value) for option in field.value.keywords}
            default = options.get("default")
            if options.get("init") == "False":
                steps.append(f"self.{name} = {default}")
                continue
            if "default_factory" in options:
                given = f"{options['default_factory']}() if {name} is None else {name}"
                kind, default = f"{kind} | None", "None"
        taken.append(f"{name}: {kind}" + ("" if default is None else f" = {default}"))
        steps.append(f"self.{name} = {given}")
    return f"def __init__({', '.join(taken)}) -> None: {'; '.join(steps)}"


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
    # Not at the top: where something is missing, these may be too.
    from mypyc.build import mypycify
    from setuptools import Distribution

    package, work = folder / "vllm_router", folder / "work"
    shutil.copytree(SRC / "vllm_router", package, ignore=shutil.ignore_patterns("__pycache__"))
    hot = sorted({path for pattern in HOT for path in package.glob(pattern)})
    sources = {path: path.read_text() for path in hot}
    for path, source in sources.items():
        path.write_text(with_inits(source))
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
    for path, source in sources.items():
        path.write_text(source)
    shutil.rmtree(work)


def main(folder: Path) -> None:
    """Bring a folder up to date."""
    stamp, now = folder / STAMP, fingerprint()
    if stamp.is_file() and stamp.read_text() == now:
        return
    lack = missing()
    if lack is not None:
        raise SystemExit(f"compile: {lack}")
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
    if sys.argv[1] == "--check":
        sys.exit(missing())
    main(Path(sys.argv[1]).absolute())
