"""A real browser without a window, driven over a pipe by Chromium's own protocol.

Needs no driver program and no library: messages are JSON, each ended by a zero byte. The browser
resolves no name and so reaches nothing but this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

#: A loaded machine may take so long to start a browser or to show a page.
PATIENCE_S = 60.0


class Page:
    """One page of the browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to_browser = to_browser
        self._from_browser = from_browser
        self._buffer = b""
        self._number = 0
        self._session: str | None = None

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._from_browser, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to_browser, data) :]
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        """Open a URL in a new page and speak to that page from now on."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """Return an expression's value once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.evaluate(script)):
            shown = "document.body.innerText.slice(0, 2000)"
            assert time.monotonic() < deadline, f"{script} in:\n{self.evaluate(shown)}"
            time.sleep(0.1)
        return value

    def settle(self) -> None:
        """Return once the page has stopped changing."""
        seen: list[Any] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(seen) < 4 or len(set(seen[-4:])) > 1:
            assert time.monotonic() < deadline, "the page goes on changing"
            time.sleep(0.2)
            seen.append(self.evaluate("document.body.innerHTML"))

    def choose_file(self, selector: str, path: str) -> None:
        """Choose a file in a file input, as a person would."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.call("DOM.setFileInputFiles", objectId=found["result"]["objectId"], files=[path])

    def type_into(self, selector: str, text: str) -> None:
        """Type into an input, as a person would."""
        self.evaluate(f"document.querySelector({selector!r}).focus()")
        self.call("Input.insertText", text=text)
        # Some forms take over what was typed only then.
        self.evaluate("document.activeElement.blur()")


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Page]:
    """Run a browser with nobody's profile until the block ends."""
    program = shutil.which("chromium")
    assert program is not None, "install Debian's chromium; scripts/install --dev does"
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()

    def at_3_and_4() -> None:
        # First out of the way, for the numbers may be the wanted ones crosswise.
        reading, writing = os.dup(in_read), os.dup(out_write)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    # The browser's helpers may outlive it by a moment, writing.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"),
                *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={profile}",
                *flags,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=at_3_and_4,
            start_new_session=True,
        )
        os.close(in_read)
        os.close(out_write)
        try:
            yield Page(in_write, out_read)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(in_write)
            os.close(out_read)
