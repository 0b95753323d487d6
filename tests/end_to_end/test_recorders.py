"""What real Chromium records, with and without a timeslice, is transcribed with its true length."""

import base64
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from tests.audio_files import audio_folder, make
from tests.end_to_end.test_files import SETTINGS, Engine, ask
from tests.packaging.chromium import chromium
from tests.requests.parrots import parrot
from tests.routers import running_router

__all__ = ["audio_folder"]

SECONDS = 4
_SCRIPT = """(async () => {
  const stream = await navigator.mediaDevices.getUserMedia({audio: true});
  const made = {};
  await Promise.all(%s.map(async ([name, mimeType, slice]) => {
    if (!MediaRecorder.isTypeSupported(mimeType)) return;
    const recorder = new MediaRecorder(stream, {mimeType}), parts = [];
    recorder.ondataavailable = event => parts.push(event.data);
    const done = new Promise(resolve => recorder.onstop = resolve);
    slice ? recorder.start(slice) : recorder.start();
    await new Promise(resolve => setTimeout(resolve, %d));
    recorder.stop();
    await done;
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    made[name] = btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
  }));
  window.made = made;
})().catch(error => window.failed = String(error)), true"""
KINDS = [
    ("mp4", "audio/mp4", 0),
    ("mp4_slices", "audio/mp4", 500),
    ("webm", "audio/webm;codecs=opus", 0),
    ("webm_slices", "audio/webm;codecs=opus", 500),
]


@pytest.fixture(scope="module")
def recorded(audio_folder: Path) -> Iterator[dict[str, bytes]]:
    sound = make(audio_folder / "capture.wav", 20, ["-c:a", "pcm_s16le"], 48_000)
    folder = audio_folder / "page"
    # There already if another process took a test of this file over, and gave one back.
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text("<title>a page that records</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with chromium(
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={sound}",
                "--autoplay-policy=no-user-gesture-required",
            ) as page:
                page.open(f"http://127.0.0.1:{server.server_port}/index.html")
                page.until("document.title === 'a page that records' && !!navigator.mediaDevices")
                page.evaluate(_SCRIPT % (json.dumps(KINDS), 1000 * SECONDS))
                page.until("window.made || window.failed")
                made = page.evaluate("window.made || window.failed")
                assert isinstance(made, dict), made
                yield {name: base64.b64decode(data) for name, data in made.items()}
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", [name for name, _, _ in KINDS])
async def test_a_recording_has_its_true_length(
    name: str, recorded: dict[str, bytes], tmp_path: Path
) -> None:
    if name not in recorded:
        pytest.skip("this Chromium does not record it")
    path = tmp_path / "recording"
    path.write_bytes(recorded[name])
    with av.open(str(path)) as container:
        length_s = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert length_s == pytest.approx(SECONDS, abs=1.5)
    async with parrot(Engine()) as url, running_router(url, **SETTINGS) as router:
        verbose = (await ask(router, recorded[name], "verbose_json")).json()
        plain = (await ask(router, recorded[name], "json")).json()
    assert verbose["duration"] == pytest.approx(length_s, abs=0.3)
    assert verbose["segments"][-1]["end"] > length_s - 2.3
    assert plain["usage"]["seconds"] == pytest.approx(length_s, abs=1.2)
