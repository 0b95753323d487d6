import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fake_engine.forms import BOUNDARY, field, file, form
from tests.fake_engine.multipart import (
    PART_HEADER_BYTES,
    TAIL_BYTES,
    FormError,
    FormReader,
    Part,
    boundary_of,
)


def read(
    body: bytes, size: int | None = None, keep: int = 1 << 20, marker: bytes = b""
) -> list[Part]:
    reader = FormReader(BOUNDARY, keep, marker)
    for at in range(0, len(body), size or max(1, len(body))):
        reader.feed(body[at : at + (size or len(body))])
    return reader.finish()


@given(
    values=st.lists(st.binary(max_size=60).filter(lambda b: BOUNDARY not in b), max_size=4),
    data=st.binary(max_size=300).filter(lambda b: BOUNDARY not in b),
    size=st.integers(1, 40),
    junk=st.binary(max_size=10),
)
def test_any_cutting_of_the_body_reads_the_same(
    values: list[bytes], data: bytes, size: int, junk: bytes
) -> None:
    body = form(*(field(f"n{i}", value) for i, value in enumerate(values)), file(data)) + junk
    for parts in (read(body), read(body, size), read(body, 1)):
        assert [part.value for part in parts[:-1]] == values
        assert bytes(parts[-1].head) == data
        assert parts[-1].sha256 == hashlib.sha256(data).hexdigest()
        assert parts[-1].size_bytes == len(data)


def test_names_files_and_types_are_told_apart() -> None:
    plain, upload = read(form(field("model", b"m"), file(b"x", filename='ü; "a".wav')))
    assert (plain.name, plain.filename, plain.content_type, plain.is_file) == (
        "model",
        None,
        None,
        False,
    )
    assert upload.is_file
    assert upload.content_type == "audio/wav"


@pytest.mark.parametrize("size", [1000, TAIL_BYTES // 3, 3 * TAIL_BYTES])
def test_only_the_start_and_the_end_of_a_large_file_are_kept(size: int) -> None:
    data = bytes(i % 251 for i in range(5 * TAIL_BYTES))
    (part,) = read(form(file(data)), size, keep=TAIL_BYTES)
    assert bytes(part.head) == data[:TAIL_BYTES]
    assert part.tail == data[-TAIL_BYTES:]
    assert part.size_bytes == len(data)
    assert part.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("marker", [b"p", b"poison"])
def test_a_marker_is_found_across_pieces_and_only_in_files(size: int, marker: bytes) -> None:
    harmless, struck = read(
        form(field("prompt", b"poison"), file(b"..poison..")), size, keep=4, marker=marker
    )
    assert not harmless.is_marked
    assert struck.is_marked
    (clean,) = read(form(file(b"..other..")), size, marker=b"poison")
    assert not clean.is_marked


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        form(file(b"data"))[:-6],
        b"--" + BOUNDARY + b"xx",
        b"--" + BOUNDARY + b"\r\n\r\n\r\nno header" + form(),
        b"--" + BOUNDARY + b"\r\n" + b"x" * (PART_HEADER_BYTES + 1),
        b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data\r\n\r\nno name\r\n" + form(),
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(FormError):
        read(body)


@pytest.mark.parametrize(
    ("given_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; Boundary="a b;c"', b"a b;c"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=", None),
        (b"application/json; boundary=abc", None),
        (b"", None),
    ],
)
def test_the_boundary_is_read_from_the_content_type(
    given_type: bytes, boundary: bytes | None
) -> None:
    assert boundary_of(given_type) == boundary
