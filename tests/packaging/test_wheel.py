"""What is installed elsewhere from the wheel is a router that runs."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest
from tests.end_to_end.processes import environment, router_process

from vllm_router import __version__

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"


def run(command: Sequence[object], where: Path, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=where,
        env=env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    return built(folder, "0")


def built(folder: Path, is_compiled: str) -> Path:
    env = {**os.environ, "VLLM_ROUTER_COMPILE": is_compiled}
    python = ["--python", sys.executable]
    run([UV, "build", "--quiet", "--wheel", *python, "--out-dir", folder, ROOT], folder, env)
    [made] = folder.glob("*.whl")
    return made


@pytest.mark.timeout(300)
def test_the_wheel_holds_the_package_and_its_licence_only(wheel: Path) -> None:
    assert wheel.name == f"vllm_whisper_router-{__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert folders == {"vllm_router", f"vllm_whisper_router-{__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sources = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*.py")}
    assert sources <= set(names)
    metadata = zipfile.ZipFile(wheel).read(f"vllm_whisper_router-{__version__}.dist-info/METADATA")
    text = metadata.decode()
    assert text.startswith("Metadata-Version")
    for extra in ("local", "vllm", "otel", "dev"):
        assert f"Provides-Extra: {extra}" in text


@pytest.mark.compiled
@pytest.mark.timeout(1300)
def test_compiled_the_wheel_holds_extension_modules_beside_the_same_sources(
    wheel: Path, tmp_path: Path
) -> None:
    compiled = built(tmp_path, "1")
    assert compiled.name.startswith(f"vllm_whisper_router-{__version__}-cp")
    names = set(zipfile.ZipFile(compiled).namelist())
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    more = {name.removesuffix(suffix) for name in names if name.endswith(".so")}
    assert {"vllm_router__mypyc", "vllm_router/spool/multipart"} <= more
    sources = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert sources <= names
    for name in sources:
        assert zipfile.ZipFile(compiled).read(name) == zipfile.ZipFile(wheel).read(name)
    zipfile.ZipFile(compiled).extractall(tmp_path / "site")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    said = run([sys.executable, "-m", "vllm_router.app", "--version"], tmp_path, env)
    assert said == f"vllm-router {__version__} (compiled)\n"


@pytest.mark.timeout(300)
def test_it_installs_and_serves_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    # Nothing of the clone may be found by accident.
    env = {k: v for k, v in environment().items() if not k.startswith(("PYTHON", "COVERAGE"))}
    run([UV, "venv", "--quiet", "--python", sys.executable, home], tmp_path, env)
    python = home / "bin" / "python"
    pinned = ["-c", ROOT / "requirements.lock"]
    run([UV, "pip", "install", "--quiet", "--python", python, *pinned, wheel], tmp_path, env)
    command = home / "bin" / "vllm-router"
    assert (
        run([command, "--version"], tmp_path, env) == f"vllm-router {__version__} (interpreted)\n"
    )
    where = run([python, "-c", "import vllm_router; print(vllm_router.__file__)"], tmp_path, env)
    assert where.startswith(str(home))
    arguments = ["--static-backends", "http://127.0.0.1:9", "--host", "127.0.0.1", "--port", "0"]
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with router_process(tmp_path / "log", arguments, [str(command)]) as process:
            assert httpx.get(process.url + "/health").json()["status"] == "ok"
            assert process.stop() == 0
    finally:
        os.chdir(before)
