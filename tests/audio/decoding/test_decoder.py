import asyncio
import os
import signal
import socket
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from tests.audio_files import audio_folder, make_kind

from vllm_router.audio.decoding.decoder import (
    AudioDecoder,
    DecoderUnavailable,
    Piece,
    PieceStream,
    _Worker,
    memory_file,
)
from vllm_router.audio.decoding.worker import ANSWER, PIECE
from vllm_router.audio.wav import pcm16_wav
from vllm_router.errors import UnreadableAudio

__all__ = ["audio_folder"]

SAMPLES = Path(__file__).parents[3] / "speech_model" / "samples"


@pytest.fixture
async def decoder() -> AsyncIterator[AudioDecoder]:
    async with asyncio.timeout(90), AudioDecoder(max_workers=2, vad="off") as decoder:
        yield decoder


def loud(seconds: float) -> bytes:
    rng = np.random.default_rng(0)
    return rng.normal(0, 2000, round(seconds * 16_000)).astype("<i2").tobytes()


@pytest.fixture
def minutes(tmp_path: Path) -> Path:
    path = tmp_path / "minutes.wav"
    path.write_bytes(pcm16_wav(loud(200)))
    return path


def children() -> set[int]:
    """Return the processes that this one has started and that still run."""
    mine = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        command = (entry / "cmdline").read_bytes() if fields[0] != "Z" else b""
        if int(fields[1]) == os.getpid() and b"decoding.worker" in command:
            mine.add(int(entry.name))
    return mine


async def all_gone() -> None:
    async with asyncio.timeout(20):
        while children():
            await asyncio.sleep(0.01)


async def one_started(before: set[int]) -> set[int]:
    async with asyncio.timeout(60):
        while not (fresh := children() - before):
            await asyncio.sleep(0.01)
    return fresh


async def collect(stream: PieceStream) -> list[Piece]:
    async with stream:
        return [piece async for piece in stream]


async def test_pieces_are_the_audio(decoder: AudioDecoder, minutes: Path) -> None:
    pieces = await collect(decoder.pieces(minutes, first_s=(8.0,), max_piece_s=20.0))
    assert b"".join(piece.pcm for piece in pieces) == loud(200)
    assert pieces[0].end_s <= 8
    assert pieces[-1].end_s == 200
    assert max(piece.end_s - piece.start_s for piece in pieces) <= 20.001
    assert not any(piece.is_silent for piece in pieces)


@pytest.mark.parametrize("kind", ["mp3_vbr", "opus", "m4a", "video_mp4"])
async def test_compressed_audio_is_decoded(
    kind: str, decoder: AudioDecoder, audio_folder: Path
) -> None:
    pieces = await collect(decoder.pieces(make_kind(audio_folder, kind, 50.0)))
    assert len(pieces) == 2
    assert pieces[-1].end_s == pytest.approx(50, abs=0.2)


async def test_a_stretch_of_a_file_in_memory_will_do(decoder: AudioDecoder) -> None:
    wav = pcm16_wav(loud(3))
    fd = memory_file(b"before" + wav + b"behind")
    try:
        os.lseek(fd, 99, os.SEEK_SET)
        (piece,) = await collect(decoder.pieces(fd, offset=6, size_bytes=len(wav)))
        assert piece.pcm == loud(3)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 99
    finally:
        os.close(fd)


async def test_an_unlinked_file_will_do(decoder: AudioDecoder, minutes: Path) -> None:
    with minutes.open("rb") as file:
        minutes.unlink()
        assert (await collect(decoder.pieces(file.fileno())))[-1].end_s == 200


async def test_a_process_is_used_again(decoder: AudioDecoder, minutes: Path) -> None:
    await decoder.warm()
    await decoder.warm()
    (first,) = children()
    for _ in range(3):
        await collect(decoder.pieces(minutes))
        assert children() == {first}
    assert repr(decoder) == "<AudioDecoder 1 processes, 1 idle>"


async def test_one_that_died_while_idle_is_replaced(decoder: AudioDecoder, minutes: Path) -> None:
    await decoder.warm()
    (first,) = children()
    os.kill(first, signal.SIGKILL)
    await all_gone()
    await asyncio.sleep(0.05)
    assert len(await collect(decoder.pieces(minutes))) == 7
    assert first not in children()


async def test_only_so_many_decode_at_a_time(decoder: AudioDecoder, minutes: Path) -> None:
    streams = [decoder.pieces(minutes) for _ in range(3)]
    await asyncio.gather(*(anext(stream) for stream in streams[:2]))
    third = asyncio.create_task(anext(streams[2]))
    await asyncio.sleep(0.2)
    assert not third.done()
    assert len(children()) == 2
    await streams[0].aclose()
    assert (await third).index == 0
    for stream in streams:
        await stream.aclose()
    await all_gone()


async def test_one_idle_process_is_enough(decoder: AudioDecoder, minutes: Path) -> None:
    await asyncio.gather(*(collect(decoder.pieces(minutes)) for _ in range(4)))
    async with asyncio.timeout(20):
        while len(children()) > 1:
            await asyncio.sleep(0.01)


async def test_leaving_half_way_ends_the_process(decoder: AudioDecoder, minutes: Path) -> None:
    async with decoder.pieces(minutes) as stream:
        async for piece in stream:
            assert piece.index == 0
            break
        assert len(children()) == 1
    assert not children()
    assert repr(stream) == "<PieceStream ended>"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.aclose()


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.1, 0.3, 1.0])
async def test_cancelling_at_any_moment_leaves_nothing_behind(
    delay_s: float, decoder: AudioDecoder, minutes: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    tasks = [asyncio.create_task(collect(decoder.pieces(minutes))) for _ in range(3)]
    await asyncio.sleep(delay_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pieces = await collect(decoder.pieces(minutes))
    assert len(pieces) == 7
    async with asyncio.timeout(20):
        while len(children()) > 1 or len(os.listdir("/proc/self/fd")) > before + 4:
            await asyncio.sleep(0.01)


async def test_leaving_the_context_ends_every_process(minutes: Path) -> None:
    async with AudioDecoder(vad="off") as decoder:
        await decoder.warm()
        stream = decoder.pieces(minutes)
        await anext(stream)
        assert repr(stream) == "<PieceStream running>"
        assert repr(decoder.pieces(minutes)) == "<PieceStream waiting>"
    assert not children()
    await stream.aclose()


async def test_a_broken_file_is_the_uploaders_fault(decoder: AudioDecoder, tmp_path: Path) -> None:
    path = tmp_path / "no.wav"
    path.write_bytes(b"this is not audio" * 99)
    for _ in range(3):
        with pytest.raises(UnreadableAudio, match="not audio") as caught:
            await collect(decoder.pieces(path))
        assert (caught.value.status, caught.value.param) == (400, "file")
    assert len(children()) == 1


async def test_a_decoder_that_breaks_is_a_broken_file(decoder: AudioDecoder, minutes: Path) -> None:
    stream = decoder.pieces(minutes)
    await anext(stream)
    os.kill(*children(), signal.SIGSEGV)
    with pytest.raises(UnreadableAudio, match="damaged"):
        await collect(stream)
    assert len(await collect(decoder.pieces(minutes))) == 7


@pytest.mark.parametrize("sizes", [(0xFFFF_FFFF, 0), (10, 0xFFFF_FFFF)])
async def test_a_decoder_that_promises_gigabytes_is_left(sizes: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    process = await asyncio.create_subprocess_exec("sleep", "60")
    worker = _Worker(process, ours)
    try:
        theirs.sendall(ANSWER.pack(PIECE, *sizes))
        with pytest.raises(EOFError):
            async with asyncio.timeout(20):
                await worker.answer()
    finally:
        worker.kill()
        theirs.close()
        await process.wait()


async def test_hours_in_which_nobody_speaks_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
    hours = 3600 * 32_000
    data = bytearray(path.read_bytes())
    data[40:44] = bytes(4)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(len(data) + 2 * hours)
    # Each ten minutes take well under a second, all of them more.
    async with AudioDecoder(piece_timeout_s=2.0, vad="level") as decoder:
        await decoder.warm()
        stream = decoder.pieces(path)
        assert await collect(stream) == []
        assert stream.length_s == 7200


async def test_decoding_without_end_is_given_up(minutes: Path) -> None:
    async with AudioDecoder(max_workers=1, piece_timeout_s=0.3, vad="off") as decoder:
        await decoder.warm()
        (worker,) = children()
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(UnreadableAudio, match="too long to decode"):
            await collect(decoder.pieces(minutes))
        assert not children()


@pytest.mark.parametrize("vad", ["silero", "level", "off"])
async def test_too_little_memory_is_said(vad: str, minutes: Path) -> None:
    async with AudioDecoder(memory_bytes=8 << 20, vad=vad) as decoder:
        with pytest.raises(UnreadableAudio, match="too much memory"):
            await collect(decoder.pieces(minutes))


async def test_longer_audio_than_allowed_is_refused(minutes: Path) -> None:
    async with AudioDecoder(max_audio_s=60) as decoder:
        with pytest.raises(UnreadableAudio, match="longer than the 60 s"):
            await collect(decoder.pieces(minutes))


async def test_a_file_that_is_not_there_is_the_callers_fault(decoder: AudioDecoder) -> None:
    with pytest.raises(FileNotFoundError):
        await collect(decoder.pieces(Path("/nowhere/a.wav")))
    await all_gone()


async def test_a_process_that_cannot_live_is_unavailable(minutes: Path) -> None:
    async with AudioDecoder(memory_bytes=1 << 80) as decoder:
        with pytest.raises(DecoderUnavailable, match="did not start"):
            await collect(decoder.pieces(minutes))
        with pytest.raises(DecoderUnavailable) as caught:
            await decoder.warm()
        assert caught.value.status == 503


async def test_one_process_is_ready_ahead_of_need_and_again_after_one_was_lost(
    minutes: Path,
) -> None:
    async with AudioDecoder(keeps_one_ready=True, vad="off") as decoder:
        first = await one_started(set())
        async with decoder.pieces(minutes) as stream:
            await anext(stream)
            assert children() == first
        assert len(await one_started(first)) == 1
    assert not children()


async def test_a_decoder_left_while_it_starts_a_process_leaves_none() -> None:
    async with AudioDecoder(keeps_one_ready=True):
        await one_started(set())
    assert not children()


async def test_what_cannot_be_started_ahead_is_told_to_whoever_needs_it(minutes: Path) -> None:
    async with AudioDecoder(memory_bytes=1 << 80, keeps_one_ready=True) as decoder:
        with pytest.raises(DecoderUnavailable, match="did not start"):
            await collect(decoder.pieces(minutes))


async def test_no_program_to_run_is_unavailable(
    minutes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    async with AudioDecoder(vad="off") as decoder:
        with pytest.raises(DecoderUnavailable, match="No such file"):
            await decoder.warm()


async def test_the_process_knows_none_of_the_routers_secrets(
    decoder: AudioDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    await decoder.warm()
    (worker,) = children()
    assert b"secret" not in Path(f"/proc/{worker}/environ").read_bytes()


def test_a_file_in_memory_holds_what_it_was_given() -> None:
    fd = memory_file(memoryview(b"abc" * 1000))
    try:
        assert os.pread(fd, 9999, 0) == b"abc" * 1000
    finally:
        os.close(fd)


def recording(name: str) -> bytes:
    with wave.open(str(SAMPLES / name)) as file:
        return file.readframes(file.getnframes())


async def test_only_speech_is_in_the_pieces(tmp_path: Path) -> None:
    path = tmp_path / "noisy.wav"
    noise, talk = loud(40), recording("07.wav")
    path.write_bytes(pcm16_wav(noise + talk + noise + talk + noise))
    talk_s = len(talk) / 32_000
    async with AudioDecoder() as decoder:
        stream = decoder.pieces(path)
        assert (stream.length_s, stream.speech_s) == (None, None)
        pieces = await collect(stream)
        assert stream.length_s == pytest.approx(120 + 2 * talk_s)
        assert stream.speech_s == pytest.approx(1.6 * talk_s, rel=0.2)
    spoken = [(40, 40 + talk_s), (80 + talk_s, 80 + 2 * talk_s)]
    for piece in pieces:
        assert piece.length_s < 2 * talk_s + 2.8
        for _, start_s, length_s in piece.stretches:
            assert any(a - 1.1 < start_s < start_s + length_s < b + 0.5 for a, b in spoken)
    assert sum(len(piece.stretches) for piece in pieces) >= 2


async def test_noise_alone_is_no_piece(minutes: Path) -> None:
    async with AudioDecoder() as decoder:
        stream = decoder.pieces(minutes)
        assert await collect(stream) == []
        assert (stream.length_s, stream.speech_s) == (200, 0)


@pytest.mark.parametrize(("vad", "keeps"), [("silero", True), ("level", True), ("off", False)])
async def test_all_is_kept_where_that_is_wanted(vad: str, keeps: bool, minutes: Path) -> None:
    async with AudioDecoder(vad=vad) as decoder:
        pieces = await collect(decoder.pieces(minutes, keeps_silence=keeps))
    assert b"".join(piece.pcm for piece in pieces) == loud(200)
    assert all(piece.is_silent == (vad == "silero") for piece in pieces)
