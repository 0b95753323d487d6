"""The build's hook: the wheel gets the hot modules compiled, where that can be done.

VLLM_ROUTER_COMPILE=1 makes a build fail that cannot compile, =0 leaves it pure Python. An editable
installation is always pure: what is edited is what runs.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface):
    """Compiles by scripts/compile.py, another process because mypyc may end it."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what compiling needs; nothing is fetched where it is not wanted."""
        return [] if _options() == "0" else ["mypy[mypyc]>=1.19,<3"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the result packed."""
        if version == "editable" or _options() == "0":
            return
        folder = Path(self.root, "build", "compiled")
        command = [sys.executable, str(Path(self.root, "scripts", "compile.py")), str(folder)]
        done = subprocess.run(  # noqa: S603 - our own script
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            why = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
            if _options() == "1":
                raise RuntimeError(f"VLLM_ROUTER_COMPILE=1, but:\n{done.stdout[-4000:]}")
            self.app.display_warning(f"vllm-router: not compiled, which costs CPU time: {why}")
            return
        for module in folder.rglob("*.so"):
            build_data["force_include"][str(module)] = str(module.relative_to(folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        self.app.display_info("vllm-router: what every upload goes through is compiled")


def _options() -> str:
    return os.environ.get("VLLM_ROUTER_COMPILE", "auto")
