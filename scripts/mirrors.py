"""Check that each source file has its test file, and each test file its source.

`src/vllm_router/audio/wav.py` is tested by `tests/audio/test_wav.py`. Exempt are files with nothing
of their own to test: `__init__.py` without code and `__main__.py` (tested by starting the command).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "vllm_router"
TESTS = ROOT / "tests"

#: Folders of tests that cross many sources: they mirror nothing.
FREE = {
    "benchmarks",
    "clients",
    "end_to_end",
    "fake_engine",
    "fuzz",
    "helm",
    "real",
    "speech",
    "packaging",
    "observe",
}

#: Tests of whole histories, which belong to no one file.
WHOLE = {Path("engines/test_histories.py"), Path("outbound/test_marked_uploads.py")}


def main() -> int:
    """Print what is missing; 1 if anything is."""
    missing = []
    for source in sorted(SOURCE.rglob("*.py")):
        place = source.relative_to(SOURCE)
        if source.name in ("__init__.py", "__main__.py"):
            continue
        test = TESTS / place.parent / f"test_{place.name}"
        if not test.exists():
            missing.append(f"{source.relative_to(ROOT)} has no {test.relative_to(ROOT)}")
    for test in sorted(TESTS.rglob("test_*.py")):
        place = test.relative_to(TESTS)
        if place.parts[0] in FREE or place in WHOLE:
            continue
        source = SOURCE / place.parent / place.name.removeprefix("test_")
        if not source.exists():
            missing.append(f"{test.relative_to(ROOT)} tests no {source.relative_to(ROOT)}")
    for line in missing:
        print(line)
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
