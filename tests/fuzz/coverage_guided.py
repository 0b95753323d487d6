"""Feed one target by atheris, which looks for bytes that reach new code.

Run as `python -m tests.fuzz.coverage_guided NAME SECONDS FOLDER`; inputs that break a promise are
left in the folder.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vllm_router"]):
    from tests.fuzz.targets import targets


def main(name: str, seconds: int, folder: Path) -> None:
    """Run until the time is up or a promise breaks, which ends the process with its trace."""
    target = targets()[name]
    seeds = folder / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(target.seeds):
        (seeds / f"good-{i}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        "-max_len=20000",
        "-timeout=10",
        "-rss_limit_mb=1500",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
        str(seeds),
    ]
    atheris.Setup(arguments, target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
