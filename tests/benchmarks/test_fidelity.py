"""scripts/fidelity's figures: what is counted, and how answers are read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from benchmarks.fidelity import table
from benchmarks.fidelity.ask import WAYS, Answer, Server, read_stream, read_windows
from tests.speech.cues import Cue
from tests.speech.recordings import Recording, Sentence

SPOKEN = Recording(
    "made-up.wav", b"RIFF", 45.0, (Sentence(1.0, 3.0, "one two three four", ((1.0, 3.0),)),)
)
SRT = "1\n00:00:01,000 --> 00:00:03,000\none two three\n\n"
EVENTS = (
    'data: {"type":"transcript.text.delta","delta":"one"}\n\n'
    'data: {"type":"transcript.text.done","text":"one two three"}\n\ndata: [DONE]\n\n'
)


class Answers(BaseHTTPRequestHandler):
    """A router that hears three of four words, in every format, for two windows each time."""

    asked = 0

    def do_GET(self) -> None:
        self.reply(f'vllm_router_engine_windows_total{{engine="a"}} {2.0 * Answers.asked}\n')

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"]))
        Answers.asked += 1
        segments = [{"start": 1.0, "end": 3.0, "text": "one two three"}]
        verbose = json.dumps({"text": "one two three", "segments": segments})
        ways = {
            b"stream": EVENTS,
            b"verbose_json": verbose,
            b"srt": SRT,
            b"vtt": "WEBVTT\n\n" + SRT.replace(",", ".")[2:],
            b"json": '{"text": "one two three"}',
            b"text": "one two three",
        }
        self.reply(
            next(
                body
                for way, body in ways.items()
                if b"\r\n\r\n" + way in form or b'name="stream"' in form
            )
        )

    def reply(self, body: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("way", WAYS)
def test_each_format_is_read_and_its_windows_are_counted(way: str) -> None:
    with serving() as url:
        answer = Server(url, "m", is_router=True).ask(SPOKEN, way)
    assert answer.text == "one two three"
    assert answer.windows == 2.0
    has_times = way in ("verbose_json", "srt", "vtt")
    assert answer.cues == ((Cue(1.0, 3.0, "one two three"),) if has_times else None)
    figure = table.judged(SPOKEN, answer)
    assert (figure.errors.wrong, figure.errors.lost) == (1, 1)


def test_an_engine_is_taken_to_cut_every_30_s() -> None:
    with serving() as url:
        assert Server(url, "m", is_router=False).ask(SPOKEN, "json").windows == 2.0


def test_a_stream_that_broke_off_has_no_words() -> None:
    assert read_stream('data: {"type":"transcript.text.delta","delta":"one"}\n\n') == ""


def test_windows_of_all_engines_are_added_up() -> None:
    lines = [f'vllm_router_engine_windows_total{{engine="{name}"}} 3.0' for name in "ab"]
    assert read_windows("\n".join(["# HELP x", *lines, "vllm_router_other 5.0"])) == 6.0


def test_rows_add_up_and_tell_of_refusals() -> None:
    good = table.judged(SPOKEN, Answer("one two three four five", None, 2.0, 1.0))
    bad = table.judged(SPOKEN, Answer("one", None, 3.0, 2.4))
    refused = table.judged(SPOKEN, Answer("", None, None, 0.1, "413"))
    rows = [
        table.Row("clean", "json", (good, bad)),
        table.Row("clean", "text", (good, refused)),
        table.Row("clean", "srt", (refused,)),
    ]
    head, line, both, half, none = table.markdown(rows).splitlines()
    assert {len(head), len(line)} == {len(both)}
    cells = [cell.strip() for cell in both.strip("|").split("|")]
    assert cells == ["clean", "json", "50.00%", "75.0%", "3", "1", "–", "5", "3"]
    assert "1 of 2 refused (413)" in half
    assert " refused (413)" in none


def test_where_nothing_is_said_words_are_counted() -> None:
    silent = Recording("silence.wav", b"", 10.0, ())
    row = table.Row("no speech", "json", (table.judged(silent, Answer("Thank you.", None, 0, 0)),))
    assert row.cells()[2] == "2 words"


def test_a_table_takes_the_place_of_the_one_before() -> None:
    document = "a\n<!-- measured: fidelity -->\nold\n<!-- end -->\nb\n"
    once = table.placed(document, r"new \1")
    assert once == "a\n<!-- measured: fidelity -->\nnew \\1\n<!-- end -->\nb\n"
    with pytest.raises(ValueError, match="no section"):
        table.placed("a", "new")
