"""The build's hook: VLLM_ROUTER_COMPILE=1 puts compiled modules into the wheel, for releases.

Without it the wheel is pure Python, whatever compilers the machine has.
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
        """Return what compiling needs."""
        return ["mypy[mypyc]>=1.19,<3"] if _is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the result packed.

        Raises:
            subprocess.CalledProcessError: It does not compile; the output says why.
        """
        if version == "editable" or not _is_wanted():
            return
        folder = Path(self.root, "build", "compiled")
        script = Path(self.root, "scripts", "compile.py")
        subprocess.run([sys.executable, str(script), str(folder)], check=True)  # noqa: S603
        for module in folder.rglob("*.so"):
            build_data["force_include"][str(module)] = str(module.relative_to(folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _is_wanted() -> bool:
    return os.environ.get("VLLM_ROUTER_COMPILE") == "1"
