"""The page at /docs in a real browser that reaches nothing but the router."""

from pathlib import Path

import pytest
from tests.end_to_end.engines import engines_beside
from tests.end_to_end.processes import router_process
from tests.packaging.chromium import Page, chromium
from tests.routers import MODEL

from vllm_router.audio.wav import silence

FORM = "[data-property-name='{}'] {}"
EXECUTE = "document.querySelector('.btn.execute')"
ANSWER = "document.querySelector('.live-responses-table .response')"


@pytest.mark.timeout(240)
def test_an_upload_can_be_tried_in_the_page(tmp_path: Path) -> None:
    audio = tmp_path / "hello.wav"
    audio.write_bytes(silence(1.0))
    with engines_beside(1, time_scale=1000) as engines:
        arguments = ["--static-backends", engines.urls, "--host", "127.0.0.1", "--port", "0"]
        with router_process(tmp_path / "log", arguments) as process, chromium() as page:
            page.open(process.wait_until_ready() + "/docs#/audio/transcriptions")
            page.until(f"{EXECUTE} !== null")
            page.settle()
            assert page.evaluate("document.title") == "Whisper router: API"
            try_upload(page, audio)
            [logged] = engines.handles[0].log.audio()
            # Nothing that the person did not say, but for what the form shows as chosen.
            fields = dict(logged.fields)
            assert fields.pop("response_format", b"json") == b"json"
            assert fields.pop("temperature", b"0") == b"0"
            assert fields.pop("stream", b"false") == b"false"
            assert fields == {"model": MODEL.encode()}
            assert logged.file is not None
            assert logged.file.filename == "hello.wav"
            came_from = "performance.getEntriesByType('resource').map(entry => entry.name)"
            assert all(name.startswith(process.url) for name in page.evaluate(came_from))


def try_upload(page: Page, audio: Path) -> None:
    page.choose_file(FORM.format("file", "input[type=file]"), str(audio))
    page.type_into(FORM.format("model", "input"), MODEL)
    page.evaluate(f"{EXECUTE}.click()")
    page.until(f"{ANSWER} !== null")
    assert page.until(f"{ANSWER}.querySelector('.response-col_status').innerText").startswith("200")
    assert "Window 0 of" in page.evaluate(f"{ANSWER}.innerText")
