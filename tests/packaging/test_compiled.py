"""Compiled, the router does what it does interpreted: the same tests, over the compiled modules."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

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


@pytest.mark.timeout(1800)
def test_the_compiled_router_passes_the_tests_of_whole_requests() -> None:
    run(SCRIPT, FOLDER, seconds=900)
    said = run("-m", "vllm_router.app", "--version", seconds=30, PYTHONPATH=str(FOLDER))
    assert said.endswith(" (compiled)\n")
    # Before src on the path, for the tests' own process and for the routers that it starts.
    path = ["-o", f"pythonpath={FOLDER} .", "-o", "cache_dir=build/compiled-cache"]
    run("-m", "pytest", "-q", *path, *SUITES, seconds=900, PYTHONPATH=str(FOLDER))


EXAMPLE = '''
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Point:
    """A place."""

    x: int
    y: int = 0

    def shifted(self) -> "Point":
        return Point(self.x + 1, self.y)


@dataclass(slots=True, eq=False)
class Bag:
    things: list[int] = field(default_factory=list)
    last: int | None = field(default=None, init=False, repr=False)
    count: int = field(default=0, repr=False)


BAG = Bag()
'''


def test_dataclasses_get_the_init_that_they_would_have_had(script: ModuleType) -> None:
    source = script.with_inits(EXAMPLE)
    assert source.count("\n") == EXAMPLE.count("\n"), "tracebacks name the lines of the source"
    assert source.count("def __init__") == 2
    made: dict[str, Any] = {"__name__": __name__}
    exec(source, made)
    point, bag = made["Point"], made["Bag"]
    assert repr(point(1)) == "Point(x=1, y=0)"
    assert point(1, y=2).shifted() == point(2, 2) == replace(point(2), y=2)
    assert len({point(1), point(1)}) == 1
    assert bag([1], 2).things == [1]
    assert bag().things == []
    assert bag().things is not bag().things
    assert bag().last is None
    assert bag(count=3).count == 3
    assert bag() != bag()


def test_no_hot_module_is_missing_and_each_keeps_its_lines(script: ModuleType) -> None:
    for pattern in script.HOT:
        found = list((script.SRC / "vllm_router").glob(pattern))
        assert found, pattern
        for path in found:
            source = path.read_text()
            assert script.with_inits(source).count("\n") == source.count("\n")


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


def test_what_is_missing_is_told(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert script.missing() == "no C compiler (no-such-compiler)"
