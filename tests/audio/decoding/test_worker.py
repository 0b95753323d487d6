import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vllm_router
from vllm_router.audio.decoding.worker import (
    ANSWER,
    END,
    JOB_LENGTH,
    OFF,
    PIECE,
    READY,
    SILERO,
    UNKNOWN,
    Job,
    serve,
)
from vllm_router.audio.wav import pcm16_wav, silence

Answer = tuple[bytes, bytes, bytes]


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += sock.recv(count - len(data)) or pytest.fail("the worker hung up")
    return data


def receive(sock: socket.socket) -> Answer:
    kind, meta_bytes, pcm_bytes = ANSWER.unpack(exactly(sock, ANSWER.size))
    return kind, exactly(sock, meta_bytes), exactly(sock, pcm_bytes)


def job(size_bytes: int, *, offset: int = 0, max_audio_s: float = 600.0) -> Job:
    return Job(offset, size_bytes, max_audio_s, 30.0, (8.0,), keeps_silence=True, vad=OFF)


def send(sock: socket.socket, work: Job, path: Path) -> None:
    with path.open("rb") as file:
        socket.send_fds(sock, [work.encode()], [file.fileno()])


@pytest.fixture
def worker() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            serve(theirs)

    thread = threading.Thread(target=run)
    thread.start()
    ours.settimeout(30)
    try:
        yield ours
    finally:
        ours.close()
        thread.join(30)
        assert not thread.is_alive()


def loud(seconds: float) -> bytes:
    rng = np.random.default_rng(0)
    return rng.normal(0, 2000, round(seconds * 16_000)).astype("<i2").tobytes()


def test_pieces_come_in_order_then_the_end(worker: socket.socket, tmp_path: Path) -> None:
    pcm = loud(75)
    path = tmp_path / "a.wav"
    path.write_bytes(b"before" + pcm16_wav(pcm) + b"behind")
    assert receive(worker) == (READY, b"", b"")
    # The second job shows that the first left the worker as it was.
    for _ in range(2):
        send(worker, job(len(pcm) + 44, offset=6), path)
        got, index, at = b"", 0, 0.0
        while (answer := receive(worker))[0] == PIECE:
            number, start_s, end_s, speech, stretches, channel, frontier_s = json.loads(answer[1])
            assert (channel, frontier_s >= end_s) == (None, True)
            assert (number, start_s) == (index, at)
            assert speech
            assert stretches == [[0, start_s, pytest.approx(end_s - start_s)]]
            got, index, at = got + answer[2], index + 1, end_s
        assert (answer[0], answer[2]) == (END, b"")
        assert json.loads(answer[1])[0] == 75
        assert got == pcm
        assert index >= 4


def test_a_refused_file_is_a_sentence(worker: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"no audio" * 100)
    receive(worker)
    send(worker, job(800), path)
    kind, words, pcm = receive(worker)
    assert (kind, pcm) == (UNKNOWN, b"")
    assert b"not audio" in words


def test_a_job_may_arrive_in_bits(worker: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(silence(0.1))
    receive(worker)
    message = job(3244).encode()
    with path.open("rb") as file:
        socket.send_fds(worker, [message[:2]], [file.fileno()])
        worker.sendall(message[2:])
        assert receive(worker)[0] == PIECE
    assert receive(worker)[0] == END


def test_no_descriptor_is_kept(worker: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(silence(0.1))
    receive(worker)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        send(worker, job(3244), path)
        while receive(worker)[0] != END:
            pass
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def start(memory_bytes: int, vad: str = OFF) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "vllm_router.audio.decoding.worker",
             str(theirs.fileno()), str(memory_bytes), vad],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env={
                "PYTHONPATH": str(Path(vllm_router.__file__).parents[2]),
                "OPENBLAS_NUM_THREADS": "1",
            },
        )  # fmt: skip
    return process, ours


def test_the_process_ends_with_its_socket(tmp_path: Path) -> None:
    process, sock = start(2 << 30)
    try:
        assert receive(sock)[0] == READY
        sock.close()
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_the_process_ends_when_nobody_takes_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(pcm16_wav(loud(200)))
    process, sock = start(2 << 30)
    try:
        receive(sock)
        send(sock, job(path.stat().st_size), path)
        assert receive(sock)[0] == PIECE
        sock.close()
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_the_process_keeps_to_its_memory_and_writes_no_file() -> None:
    process, sock = start(1 << 30)
    try:
        receive(sock)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        bounds = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()}
        assert bounds["Max address space"] == [str(1 << 30)] * 2
        assert bounds["Max core file size"] == ["0", "0"]
        assert bounds["Max file size"] == ["0", "0"]
    finally:
        sock.close()
        process.wait(30)


def test_a_job_states_its_own_length() -> None:
    message = job(5).encode()
    assert JOB_LENGTH.unpack(message[:4]) == (len(message) - 4,)


def test_the_detector_has_room_within_the_workers_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(pcm16_wav(loud(75)))
    process, sock = start(2 << 30, SILERO)
    try:
        assert receive(sock)[0] == READY
        send(sock, Job(0, path.stat().st_size, 600, 30.0, (), False, SILERO), path)
        kind, meta, _ = receive(sock)
        assert (kind, json.loads(meta)) == (END, [75, 0, []])
        peak_kb = Path(f"/proc/{process.pid}/status").read_text().split("VmPeak:")[1].split()[0]
        assert int(peak_kb) < 1 << 20
    finally:
        sock.close()
        process.wait(30)
