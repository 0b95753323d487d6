"""Two local engines with the speech model and the router in front, for the official clients."""

import sys
from collections.abc import Iterator

import pytest
from tests.clients.servers import ROOT, Server, free_port, router, running
from tests.speech.recordings import Recording, samples

MODEL = "openai/whisper-base"
# Each is up within two seconds on an idle machine.
START_S = 100.0


@pytest.fixture(scope="session")
def router_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    logs = tmp_path_factory.mktemp("clients")
    engines = [
        Server(
            command=lambda port: [
                *(sys.executable, "-m", "vllm_router.local", "--model", "speech_model/ct2"),
                *("--served-model-name", MODEL, "--port", str(port)),
            ],
            log=logs / f"engine-{number}.log",
            ready_path="/health",
            port=free_port(),
            environment={"PYTHONPATH": str(ROOT / "src")},
        )
        for number in range(2)
    ]
    front = router(
        [engine.url for engine in engines],
        logs / "router.log",
        *("--static-aliases", f"whisper-1:{MODEL}"),
    )
    with running(engines, START_S), running([front], START_S):
        yield front.url


@pytest.fixture(scope="session")
def recording() -> Recording:
    """The recording that each client sends: five sentences."""
    return next(sample for sample in samples() if sample.name == "06.wav")
