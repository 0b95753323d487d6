import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tests.clients.servers import Server
from tests.real.ask import TIMEOUT_S, transcribe
from tests.real.engines import START_S
from tests.speech import people
from tests.speech.recordings import Recording
from tests.speech.words import pooled, word_errors

CLIENTS = 8
REQUESTS = 32
KILL_AFTER = 8


def engine_state(router: Server, engine: Server) -> dict[str, object]:
    """What the router says of an engine."""
    listed = httpx.get(f"{router.url}/engines", timeout=TIMEOUT_S).json()
    entries = listed if isinstance(listed, list) else listed["engines"]
    return next(entry for entry in entries if entry["url"] == engine.url)


def wait_until_used(router: Server, engine: Server, deadline: float) -> None:
    """Return once the router takes an engine for ready."""
    while str(engine_state(router, engine)["state"]).upper() != "READY":
        assert time.monotonic() < deadline, engine_state(router, engine)
        time.sleep(0.2)


@pytest.mark.timeout(3 * START_S)
def test_no_request_fails_when_an_engine_is_killed_under_load(
    own_router: Server, engines: list[Server], figures: dict[str, object]
) -> None:
    victim = engines[0]
    spoken = [people.spoken(clip.name) for clip in people.clips()]
    work = [spoken[number % len(spoken)] for number in range(REQUESTS)]
    answered = threading.Semaphore(0)

    def ask(recording: Recording) -> tuple[str, str]:
        try:
            response = transcribe(own_router.url, recording, response_format="json")
            return response.json()["text"], response.headers["x-engine-id"]
        finally:
            answered.release()

    # The engine that lives must have shown that it does: cold, its first probe may take 10 s.
    deadline = time.monotonic() + START_S
    for engine in engines:
        wait_until_used(own_router, engine, deadline)
    with ThreadPoolExecutor(CLIENTS) as clients:
        asked = [clients.submit(ask, recording) for recording in work]
        for _ in range(KILL_AFTER):
            answered.acquire()
        while not engine_state(own_router, victim)["in_flight"]:
            assert not all(future.done() for future in asked), "one engine got none of the work"
            time.sleep(0.01)
        victim.kill()
        heard = [future.result() for future in asked]

    errors = pooled(word_errors(s.text, text) for s, (text, _) in zip(work, heard, strict=True))
    by_engine = [name for _, name in heard]
    figures["an engine killed under load"] = (
        f"{len(heard)} of {REQUESTS} answered, {errors}, "
        + ", ".join(f"{by_engine.count(name)} by {name}" for name in sorted(set(by_engine)))
    )
    assert errors.rate <= 0.05

    victim.start()
    victim.wait_until_ready(START_S)
    deadline = time.monotonic() + START_S
    wait_until_used(own_router, victim, deadline)
    # An engine that has just come back may be given little at first.
    while str(engine_state(own_router, victim)["engine_id"]) not in by_engine[REQUESTS:]:
        assert time.monotonic() < deadline, "the restarted engine gets no work"
        with ThreadPoolExecutor(CLIENTS) as clients:
            by_engine += [name for _, name in clients.map(ask, work[:CLIENTS])]
