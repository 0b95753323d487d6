"""Compiled, the router does what it does interpreted: the same tests, over the compiled modules."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "compile.py"
FOLDER = ROOT / "build" / "compiled"
#: Whole requests over real sockets. Tests of single modules stay interpreted: their fakes are not
#: of the types that compiled code insists on.
#: Without those that mostly wait, or that decode: none of it is compiled.
SUITES = (
    "tests/end_to_end",
    *(f"--ignore=tests/end_to_end/test_{name}.py" for name in ("black_holes", "files")),
    *(f"--ignore=tests/end_to_end/test_{name}.py" for name in ("mutated_files", "recorders")),
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*command: object, seconds: float, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        # What runs here is not in src: nothing to be covered.
        env={**os.environ, **env, "COVERAGE_PROCESS_START": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


@pytest.mark.compiled
@pytest.mark.timeout(1800)
def test_the_compiled_router_passes_the_tests_of_whole_requests() -> None:
    run(SCRIPT, FOLDER, seconds=900)
    said = run("-m", "vllm_router.app", "--version", seconds=30, PYTHONPATH=str(FOLDER))
    assert said.endswith(" (compiled)\n")
    # Before src on the path, for the tests' own process and for the routers that it starts.
    path = ["-o", f"pythonpath={FOLDER} .", "-o", "cache_dir=build/compiled-cache"]
    workers = ["--numprocesses", str(2 * (os.cpu_count() or 1)), "--dist", "worksteal"]
    run("-m", "pytest", "-q", *path, *workers, *SUITES, seconds=900, PYTHONPATH=str(FOLDER))


def test_no_hot_module_is_missing(script: ModuleType) -> None:
    for pattern in script.HOT:
        assert list((script.SRC / "vllm_router").glob(pattern)), pattern


def test_no_hot_module_calls_what_has_effects_within_a_slice(script: ModuleType) -> None:
    # mypyc 2.4 evaluates the bounds of some slices twice.
    harmless = {"len", "min", "max", "find"}
    for pattern in script.HOT:
        for path in (script.SRC / "vllm_router").glob(pattern):
            slices = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Slice)]
            called = {
                ast.unparse(node.func).split(".")[-1]
                for each in slices
                for node in ast.walk(each)
                if isinstance(node, ast.Call)
            }
            assert called <= harmless, path


def test_each_constant_of_a_hot_module_is_final(script: ModuleType) -> None:
    # mypyc looks any other up in the module's dictionary at each use.
    for pattern in script.HOT:
        for path in (script.SRC / "vllm_router").glob(pattern):
            plain = [
                target.id
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Assign) and "TypeVar" not in ast.unparse(node.value)
                for target in node.targets
                if isinstance(target, ast.Name) and re.fullmatch("_?[A-Z][A-Z0-9_]*", target.id)
            ]
            assert plain == [], path
