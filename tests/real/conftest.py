"""Two real vLLM engines with OpenAI's Whisper base, and the router in front, for a whole run."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clients.servers import Server, router, running
from tests.real.engines import MODEL, START_S, engine
from tests.speech import people
from tests.speech.recordings import Recording

_FIGURES = pytest.StashKey[dict[str, object]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--router-url",
        help="ask a router that runs already; tests that kill or compare engines start their own",
    )
    parser.addoption("--seed", type=int, default=1, help="of the long recordings (default 1)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = {}
    # A run that is told to end must still end its engines: they are in groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    figures = config.stash[_FIGURES]
    if not figures:
        return
    terminalreporter.section("figures")
    for name, figure in figures.items():
        terminalreporter.write_line(f"{name}: {figure}")
    if folder := os.environ.get("REPORT_DIR"):
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / "real.json").write_text(json.dumps(figures, indent=2) + "\n")


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, object]:
    """What was measured: printed at the end, and written to $REPORT_DIR/real.json."""
    return pytestconfig.stash[_FIGURES]


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    logs = tmp_path_factory.mktemp("engines")
    servers = [engine(logs / f"engine-{number}.log") for number in range(2)]
    with running(servers, START_S):
        yield servers


@pytest.fixture(scope="session")
def own_router(engines: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = router(
        [engine.url for engine in engines],
        tmp_path_factory.mktemp("router") / "router.log",
        *("--static-aliases", f"whisper-1:{MODEL}"),
        *("--static-backend-health-checks", "--static-backend-health-check-interval", "2"),
    )
    with running([server], timeout_s=120):
        yield server


@pytest.fixture(scope="session")
def router_url(request: pytest.FixtureRequest) -> str:
    if given := request.config.getoption("--router-url"):
        return str(given).rstrip("/")
    started: Server = request.getfixturevalue("own_router")
    return started.url


@pytest.fixture(scope="session")
def recording() -> Recording:
    """The recording that each client sends: one that base has right to the word."""
    return people.spoken("jfk.flac")
