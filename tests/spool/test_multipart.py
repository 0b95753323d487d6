"""The form reader against generated forms, against a second implementation, and fed in any way."""

import contextlib
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vllm_router.spool.multipart import (
    MAX_FIELD_BYTES,
    MAX_PART_HEAD_BYTES,
    MAX_PARTS,
    BadForm,
    Edit,
    Form,
    FormPart,
    FormReader,
    boundary_of,
)

BOUNDARY = b"frontier"


def written(parts: list[tuple[bytes, bytes | None, bytes]], boundary: bytes = BOUNDARY) -> bytes:
    """Return a form of (name, file name or None, content)."""
    out = []
    for name, filename, content in parts:
        out.append(b'--%b\r\nContent-Disposition: form-data; name="%b"' % (boundary, name))
        if filename is not None:
            out.append(b'; filename="%b"\r\nContent-Type: audio/wav' % filename)
        out.append(b"\r\n\r\n" + content + b"\r\n")
    return b"".join(out) + b"--%b--\r\n" % boundary


def read(body: bytes, boundary: bytes = BOUNDARY) -> Form:
    reader = FormReader(boundary)
    reader.feed(body, 0, len(body))
    return reader.finish()


def read_by(body: bytes, sizes: list[int], boundary: bytes = BOUNDARY) -> Form:
    """Read a body in pieces that lie somewhere inside larger memory, as blocks do."""
    reader = FormReader(boundary)
    at = turn = 0
    while at < len(body):
        size = max(1, sizes[turn % len(sizes)])
        piece = body[at : at + size]
        reader.feed(
            bytearray(b"--%b\r\n" % boundary + piece + b"\r\n--"),
            len(boundary) + 4,
            len(boundary) + 4 + len(piece),
        )
        at += size
        turn += 1
    return reader.finish()


def edited(body: bytes, edits: list[Edit]) -> bytes:
    for edit in sorted(edits, key=lambda e: e.start, reverse=True):
        body = body[: edit.start] + edit.data + body[edit.end :]
    return body


# Contents that come near a boundary without being one, besides any bytes at all.
near = st.lists(
    st.sampled_from(
        [b"\r\n--frontie", b"\r\n--", b"\r", b"\n", b"-", b"--frontier", b"\r\n", b"x", b"\r\n-"]
    ),
    max_size=8,
).map(b"".join)
contents = st.one_of(near, st.binary(max_size=80)).filter(lambda c: b"\r\n--frontier" not in c)
names = st.text("abcdefgh[]_-. äß", min_size=1, max_size=12).map(lambda t: t.encode())
forms = st.lists(st.tuples(names, st.none() | names, contents), max_size=6)
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(forms, sizes)
def test_any_form_is_read_as_it_was_written_in_whatever_pieces(
    parts: list[tuple[bytes, bytes | None, bytes]], cut: list[int]
) -> None:
    body = written(parts)
    form = read(body)
    assert [(p.name.encode(), body[p.start : p.end]) for p in form.parts] == [
        (name, content) for name, _, content in parts
    ]
    assert [p.filename for p in form.parts] == [
        None if filename is None else filename.decode() for _, filename, _ in parts
    ]
    assert [p.value for p in form.parts] == [
        content if filename is None else None for _, filename, content in parts
    ]
    assert read_by(body, cut) == form
    assert read_by(body, [1]) == form
    assert read(body + b"any epilogue\r\n--frontier\r\n") == form


@dataclass
class Oracle:
    """What python-multipart, which vLLM uses, makes of a body."""

    parts: list[tuple[str, str | None, bytes]] = field(default_factory=list)
    is_ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _content: bytes = b""

    def read(self, body: bytes) -> "Oracle":
        parser = MultipartParser(
            BOUNDARY,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_part_data": self._on_data,
                "on_part_end": self._end,
                "on_end": self._on_end,
            },
        )
        parser.write(body)
        parser.finalize()
        return self

    def _begin(self) -> None:
        self._headers, self._content = {}, b""

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._headers[b"content-disposition"])
        filename = options.get(b"filename")
        self.parts.append(
            (
                options[b"name"].decode("utf-8"),
                None if filename is None else filename.decode("utf-8"),
                self._content,
            )
        )

    def _on_end(self) -> None:
        self.is_ended = True


def shown(body: bytes, form: Form) -> list[tuple[str, str | None, bytes]]:
    return [(p.name, p.filename, body[p.start : p.end]) for p in form.parts]


@given(forms)
def test_a_second_implementation_reads_the_same(
    parts: list[tuple[bytes, bytes | None, bytes]],
) -> None:
    body = written(parts)
    assert shown(body, read(body)) == Oracle().read(body).parts


@given(forms.filter(bool), st.data())
@example(parts=[(b"a", None, b"")], data=None).via("a blank behind a boundary")
def test_what_engines_read_differently_is_refused(
    parts: list[tuple[bytes, bytes | None, bytes]], data: st.DataObject | None
) -> None:
    body = written(parts)
    if data is None:
        body = body.replace(b"--frontier\r\n", b"--frontier \r\n")
    else:
        # One byte less, more or other, wherever.
        at = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.sampled_from(["drop", "double", "change"]))
        new = {"drop": b"", "double": body[at : at + 1] * 2}.get(kind)
        if new is None:
            new = data.draw(st.sampled_from([b"\r", b"\n", b"-", b" ", b'"', b":", b";", b"\0"]))
        body = body[:at] + new + body[at + 1 :]
    try:
        form = read(body)
    except BadForm:
        return
    try:
        oracle = Oracle().read(body)
    except (FormParserError, KeyError, UnicodeDecodeError):
        # The engine refuses it, which the client will see.
        return
    if oracle.is_ended and all(p.filename is None or '"' not in p.filename for p in form.parts):
        assert [c for *_, c in shown(body, form)] == [c for *_, c in oracle.parts]


@given(st.binary(max_size=300), sizes)
def test_no_bytes_at_all_bring_it_down(body: bytes, cut: list[int]) -> None:
    outcomes: list[Form | type] = []
    for feed in (lambda: read(body), lambda: read_by(body, cut), lambda: read_by(body, [1])):
        try:
            outcomes.append(feed())
        except BadForm:
            outcomes.append(BadForm)
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(forms, st.binary(max_size=40))
def test_an_edited_form_reads_as_the_edit_says(
    parts: list[tuple[bytes, bytes | None, bytes]], value: bytes
) -> None:
    if b"\r\n--frontier" in b"\r\n" + value or not parts:
        return
    body = written([*parts, (b"model", None, b"alias")])
    form = read(body)
    changed = edited(body, form.replaced("model", value))
    again = read(changed)
    assert again.values("model")[-1] == value
    others = [s for s in shown(changed, again) if s[0] != "model"]
    assert others == [s for s in shown(body, form) if s[0] != "model"]
    added = edited(body, form.replaced("new", value))
    assert read(added).value("new") == value
    assert len(read(added).parts) == len(form.parts) + 1


@given(forms, st.sampled_from([b"language", b"model"]), st.integers(0, 20), st.binary(max_size=9))
def test_a_field_that_is_removed_leaves_the_others_as_they_are(
    parts: list[tuple[bytes, bytes | None, bytes]], name: bytes, at: int, value: bytes
) -> None:
    if b"\r\n--frontier" in b"\r\n" + value:
        return
    at = min(at, len(parts))
    body = written(
        [*parts[:at], (name, None, value), (name, None, value), *parts[at:], (b"z", None, b"old")]
    )
    form = read(body)
    edits = [*form.removed(name.decode()), *form.replaced("z", b"new"), form.added("y", b"1")]
    changed = edited(body, edits)
    left = [s for s in shown(body, form) if s[0] not in (name.decode(), "z")]
    again = [s for s in shown(changed, read(changed)) if s[0] not in ("y", "z")]
    assert again == left
    assert read(changed).value("z") == b"new"
    assert read(changed).value("y") == b"1"
    assert form.removed("no such field") == []


@given(forms, st.permutations([b"language", b"channels", b"language"]), st.integers(0, 20))
def test_fields_of_several_names_are_removed_wherever_they_stand(
    parts: list[tuple[bytes, bytes | None, bytes]], names: list[bytes], at: int
) -> None:
    at = min(at, len(parts))
    body = written([*parts[:at], *((name, None, b"x") for name in names), *parts[at:],
                    (b"z", None, b"old")])  # fmt: skip
    form = read(body)
    changed = edited(body, form.removed("language", "channels"))
    left = [s for s in shown(body, form) if s[0] not in ("language", "channels")]
    assert shown(changed, read(changed)) == left
    assert changed.startswith(b"--")


def test_two_fields_can_be_added_at_once() -> None:
    body = written([(b"file", b"a.wav", b"sound")])
    form = read(body)
    again = read(edited(body, [form.added("a", b"1"), form.added("b", b"2")]))
    assert (again.value("a"), again.value("b")) == (b"1", b"2")


def test_the_last_value_and_the_last_file_win_as_in_vllm() -> None:
    body = written(
        [
            (b"model", None, b"one"),
            (b"file", b"a.wav", b"first"),
            (b"model", None, b"two"),
            (b"file", b"b.wav", b"second"),
            (b"file", None, b"a plain field of that name"),
        ]
    )
    form = read(body)
    assert form.value("model") == b"two"
    assert form.values("model") == [b"one", b"two"]
    assert form.value("nobody") is None
    found = form.file()
    assert found is not None
    assert (found.filename, found.content_type) == ("b.wav", b"audio/wav")
    assert form.file("other") is None
    assert form.changed("nobody", b"x") == []


def test_files_are_never_kept() -> None:
    reader = FormReader(BOUNDARY)
    head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    reader.feed(head, 0, len(head))
    block = bytearray(random.Random(1).randbytes(64 * 1024))
    for _ in range(64):
        reader.feed(block, 0, len(block))
    reader.feed(b"\r\n--frontier--", 0, 14)
    form = reader.finish()
    assert form.parts == (
        FormPart("file", "x", None, len(head), len(head) + 64 * len(block), None),
    )
    assert reader.parts == list(form.parts)


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        (b"form-data; name=file; filename=a.wav", "file", "a.wav"),
        (b'form-data; name="a\\"b"; filename="c\\d.wav"', 'a"b', "c\\d.wav"),
        (b'FORM-DATA ; NAME = "f" ;size=3 ;FILENAME="x"', "f", "x"),
        (b"form-data; filename=\"plain\"; filename*=UTF-8''%e2%82%ac; name=f", "f", "plain"),
        (b"form-data; name=f; filename*=UTF-8''%e2%82%ac", "f", "UTF-8''%e2%82%ac"),
        (b'form-data; name="f"; filename=""', "f", ""),
        ('form-data; name="größe"'.encode(), "größe", None),
        (b'form-data; name="\xff"', "\ufffd", None),
    ],
)
def test_names_are_read_as_clients_write_them(
    disposition: bytes, name: str, filename: str | None
) -> None:
    body = b"--frontier\r\ncontent-DISPOSITION: %b\r\nX: y\r\n\r\nz\r\n--frontier--" % disposition
    [part] = read(body).parts
    assert (part.name, part.filename) == (name, filename)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--frontier",
        b"--frontier\r\n",
        b"--frontier-",
        b"--frontier-\r\n",
        b"--frontierx\r\n",
        b"--frontier \r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--frontier--",
        b"--frontier\nContent-Disposition: form-data; name=a\n\nb\n--frontier--",
        b"--frontier\r\n\r\nno name\r\n--frontier--",
        b"--frontier\r\nContent-Type: audio/wav\r\n\r\nno name\r\n--frontier--",
        b"--frontier\r\nContent-Disposition: attachment; name=a\r\n\r\nb\r\n--frontier--",
        b"--frontier\r\nContent-Disposition: form-data; name=a\r\n"
        b"Content-Disposition: form-data; name=b\r\n\r\nb\r\n--frontier--",
        b"--frontier\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--frontier",
        b"--frontier\r\nX: " + b"y" * MAX_PART_HEAD_BYTES,
        written([(b"a", None, b"b")] * (MAX_PARTS + 1)),
        written([(b"a", None, b"b" * (MAX_FIELD_BYTES // 2))] * 3),
    ],
)
@pytest.mark.parametrize("size", [1, 100, 10_000_000])
def test_a_form_that_breaks_a_rule_or_a_bound_is_refused(body: bytes, size: int) -> None:
    if size == 1 and len(body) > 100_000:
        size = 1000
    with pytest.raises(BadForm):
        read_by(body, [size])


def test_a_form_without_parts_is_empty() -> None:
    assert read(b"--frontier--").parts == ()
    assert read(b"a preamble\r\n--frontier--").parts == ()


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; BOUNDARY="a b:c"', b"a b:c"),
        (b"multipart/form-data;boundary=a\\b", b"a\\b"),
        (b'multipart/form-data; boundary="a\\"b"', b'a"b'),
        (b"multipart/mixed; boundary=abc", None),
        (b"application/json", None),
        (b"", None),
    ],
)
def test_the_boundary_is_found(content_type: bytes, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b"multipart/form-data; boundary=" + b"x" * 257,
        b'multipart/form-data; boundary="a\r\nb"',
        b'multipart/form-data; boundary="a\rb"',
        b"multipart/form-data; bound=abc",
    ],
)
def test_a_form_without_a_usable_boundary_is_refused(content_type: bytes) -> None:
    with pytest.raises(BadForm):
        boundary_of(content_type)


@given(st.binary(max_size=200))
def test_no_content_type_brings_it_down(tail: bytes) -> None:
    for content_type in (tail, b"multipart/form-data;" + tail):
        with contextlib.suppress(BadForm):
            boundary_of(content_type)
