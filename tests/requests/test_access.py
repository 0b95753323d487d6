import asyncio
import contextlib
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.requests.access import Holder, KeyFile, KeyRing, digest, read_keys

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


def ring(*keys: str) -> KeyRing:
    return KeyRing(Holder(f"holder of {key}", digest(key)) for key in keys)


@given(KEYS, KEYS)
def test_a_key_opens_for_its_holder_and_no_other(key: str, other: str) -> None:
    found = ring(key).holder(b"Bearer " + other.encode())
    assert (found is not None) is (key == other)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_schemes_case_is_of_no_account(scheme: bytes) -> None:
    found = ring("a", "b").holder(scheme + b"  b ")
    assert found is not None
    assert found.name == "holder of b"


@pytest.mark.parametrize(
    "header", [None, b"", b"a", b"Basic a", b"Bearer", b"Bearer ", b"Bearer a b"]
)
def test_what_is_no_bearer_of_the_key_is_nobody(header: bytes | None) -> None:
    assert ring("a").holder(header) is None


def test_a_ring_without_keys_is_open() -> None:
    keys = KeyRing([])
    assert keys.is_open
    keys.replace([Holder("a", digest("a"))])
    assert not keys.is_open


def test_keys_are_held_as_hashes_only() -> None:
    keys = ring("s3cret")
    assert "s3cret" not in repr(vars(keys)).replace("holder of s3cret", "")


def test_a_key_file_names_holders_or_counts_lines() -> None:
    holders = read_keys("# comment\n\nann: first\n  second\nbob:with:colons\n")
    assert holders == (
        Holder("ann", digest("first")),
        Holder("line-4", digest("second")),
        Holder("bob", digest("with:colons")),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nobody\n",
        "ann:",
        ":key",
        "two words",
        "schlüssel",
        "a\tb",
        "a\x00b:key",
        "a" * 201 + ":k",
    ],
)
def test_a_key_that_nobody_could_send_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="key") as wrong:
        read_keys(text)
    assert "schl" not in str(wrong.value)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert read_keys(text)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", None])
def test_a_file_that_cannot_be_used_at_start_names_the_flag(
    data: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match="--api-key-file"):
        KeyFile(path, KeyRing([]), ())


async def test_a_broken_edit_is_told_once_and_keeps_the_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("first")
    keys = KeyRing([])
    other = Holder("flag", digest("by-flag"))
    follower = asyncio.create_task(KeyFile(path, keys, (other,)).follow())
    with caplog.at_level(logging.WARNING):
        path.write_text("\n")
        await asyncio.sleep(2.5)
        assert keys.holder(b"Bearer first") is not None
        assert len(caplog.records) == 1
        path.write_text("second")
        async with asyncio.timeout(10):
            while keys.holder(b"Bearer second") is None:
                await asyncio.sleep(0.05)
    assert keys.holder(b"Bearer first") is None
    assert keys.holder(b"Bearer by-flag") == other
    follower.cancel()


async def test_a_pipe_in_the_place_of_the_file_keeps_the_keys_and_the_event_loop_going(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("first")
    keys = KeyRing([])
    file = KeyFile(path, keys, ())
    path.unlink()
    os.mkfifo(path)
    async with asyncio.timeout(10):
        for _ in range(3):
            await file.look()
    assert keys.holder(b"Bearer first") is not None
    assert caplog.text.count("cannot be read: it is not a regular file; the previous keys") == 1
    path.unlink()
    path.write_text("second")
    await file.look()
    await file.look()
    assert keys.holder(b"Bearer second") is not None


async def test_an_edit_counts_once_two_reads_agree_on_it(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("first")
    keys = KeyRing([])
    file = KeyFile(path, keys, ())
    # An editor is at work: half of a key is on the disk.
    path.write_text("seco")
    await file.look()
    path.write_text("second")
    await file.look()
    assert keys.holder(b"Bearer seco") is None
    assert keys.holder(b"Bearer first") is not None
    await file.look()
    assert keys.holder(b"Bearer second") is not None
    assert keys.holder(b"Bearer first") is None


def test_a_file_too_large_to_be_one_of_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("#" * (2**20 + 1))
    with pytest.raises(ValueError, match=r"--api-key-file: .* it is larger than 1 MiB"):
        KeyFile(path, KeyRing([]), ())
