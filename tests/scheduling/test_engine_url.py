import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.engine_url import address_url, engine_url


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://localhost:8002", "http://localhost:8002"),
        ("  http://localhost:8002/ ", "http://localhost:8002"),
        ("http://host/\n", "http://host"),
        ("HTTP://LocalHost:8002", "http://localhost:8002"),
        ("http://localhost:8002/v1", "http://localhost:8002"),
        ("http://localhost:8002/v1/", "http://localhost:8002"),
        ("http://gate/engines/a/v1", "http://gate/engines/a"),
        ("http://gate/engines/a//", "http://gate/engines/a"),
        ("http://gate/v1/v1//", "http://gate"),
        ("http://gate/v10", "http://gate/v10"),
        ("http://gate:80", "http://gate"),
        ("https://gate:443/x", "https://gate/x"),
        ("https://gate:80", "https://gate:80"),
        ("http://[FD00::0:1]:8000", "http://[fd00::1]:8000"),
        ("http://0.0.0.0:8002", "http://0.0.0.0:8002"),
        ("http://engine_1.compose:8000", "http://engine_1.compose:8000"),
        ("http://engine.svc.cluster.local.:8000", "http://engine.svc.cluster.local.:8000"),
    ],
)
def test_an_address_has_one_form(written: str, url: str) -> None:
    assert engine_url(written) == url
    assert engine_url(url) == url


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("localhost:8002", "http://"),
        ("localhost", "http://"),
        ("ftp://host", "http://"),
        ("://host", "http://"),
        ("http://", "no host"),
        ("http://:8000", "no host"),
        ("http:///x", "no host"),
        ("http://host:", "port"),
        ("http://host:0", "port"),
        ("http://host:65536", "port"),
        ("http://host:80x", "port"),
        ("http://host:-1", "port"),
        ("http://ho st:80", "space"),
        ("http://host/a\tb", "control"),
        ("http://[::1", "not a URL"),
        ("http://[::1%25eth0]:80", "zone"),
        ("http://10.0.0.300:80", "host name or IP"),
        ("http://10.0.0:80", "host name or IP"),
        ("http://-a:80", "host name or IP"),
        ("http://a..b:80", "host name or IP"),
        ("http://höst:80", "host name or IP"),
        ("http://" + "a." * 200 + "b", "host name or IP"),
        ("http://host?x=1", "query"),
        ("http://host#x", "fragment"),
        ("http://host/ä", "ASCII"),
    ],
)
def test_what_could_not_be_dialled_is_refused_in_words(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        engine_url(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["http://me:secret@host:80", "http://secret@host"])
def test_a_password_is_refused_and_not_repeated(written: str) -> None:
    with pytest.raises(ValueError, match="user name or password") as caught:
        engine_url(written)
    assert "secret" not in str(caught.value)


@given(st.text())
def test_any_text_gives_a_url_or_a_sentence(text: str) -> None:
    for written in (text, f"http://{text}", f"http://host:80{text}"):
        try:
            url = engine_url(written)
        except ValueError:
            continue
        assert engine_url(url) == url
        assert not url.endswith("/")


def test_an_address_and_a_port_make_a_url() -> None:
    assert address_url("10.0.0.1", 8000) == "http://10.0.0.1:8000"
    assert address_url("FD00::0:1", 8000) == "http://[fd00::1]:8000"
    assert address_url("Engine.example.", 80) == "http://engine.example:80"


@pytest.mark.parametrize(
    ("address", "port"), [("10.0.0.1", 0), ("10.0.0.1", 65536), ("", 80), ("a b", 80), ("a/b", 80)]
)
def test_no_url_from_a_wrong_address_or_port(address: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"port|host name"):
        address_url(address, port)
