from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.discovery.kube_api import endpoint, endpoint_slice
from tests.discovery.test_kube_objects import JSON

from vllm_router.discovery.kube_objects import HINT_PREFIX, Candidate, MalformedObject, Reading
from vllm_router.discovery.kube_slices import EndpointBook, read_slice


def keys(reading: Reading) -> list[str]:
    return [each.key for each in reading.candidates if not each.is_terminating]


@pytest.mark.parametrize(
    ("conditions", "is_eligible"),
    [
        ({}, True),
        ({"ready": None}, True),
        ({"ready": True}, True),
        ({"ready": True, "serving": None, "terminating": None}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        # With publishNotReadyAddresses a terminating endpoint is called ready.
        ({"ready": True, "terminating": True}, False),
        ({"serving": False}, True),
    ],
)
def test_conditions_mean_what_the_api_defines(
    conditions: dict[str, Any], is_eligible: bool
) -> None:
    item = endpoint_slice("s", endpoint("a", "10.0.0.1", **conditions))
    assert keys(read_slice(item, 8000)) == (["voice/a/uid-a"] if is_eligible else [])


def test_absent_conditions_mean_ready() -> None:
    item = endpoint_slice("s", {"addresses": ["10.0.0.1"]})
    assert keys(read_slice(item, 8000)) == ["voice/engines/10.0.0.1:8000"]


def test_an_endpoint_without_a_pod_is_known_by_its_address() -> None:
    item = endpoint_slice("s", endpoint(None, "10.0.0.1"))
    item["endpoints"][0]["targetRef"] = {"kind": "Node", "name": "n", "uid": "u"}
    assert keys(read_slice(item, 8000)) == ["voice/engines/10.0.0.1:8000"]
    item["metadata"]["labels"] = {}
    assert keys(read_slice(item, 8000)) == ["voice/s/10.0.0.1:8000"]


def test_of_several_addresses_the_first_is_taken() -> None:
    item = endpoint_slice("s", endpoint("a", "fd00::1"))
    item["endpoints"][0]["addresses"].append("fd00::2")
    assert read_slice(item, 8000).candidates[0].url == "http://[fd00::1]:8000"


TWO = [{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000, "protocol": "TCP"}]


@pytest.mark.parametrize(
    ("ports", "asked", "number"),
    [
        ([{"port": 9000}], 8000, 9000),
        ([{"name": "x", "port": 9000}], "http", 9000),
        ([{"name": "x", "port": 9000}, {"port": 53, "protocol": "UDP"}], 8000, 9000),
        (TWO, "metrics", 9000),
        (TWO, 8000, 8000),
        ([], 8000, 8000),
        (None, 8000, 8000),
        ([{"name": "any", "port": None}], 8000, 8000),
    ],
)
def test_the_port_of_a_slice(ports: Any, asked: int | str, number: int) -> None:
    item = endpoint_slice("s", endpoint("a", "10.0.0.1"), ports=ports)
    assert read_slice(item, asked).candidates[0].url == f"http://10.0.0.1:{number}"


@pytest.mark.parametrize(("ports", "asked"), [(TWO, "grpc"), (TWO, 80), ([], "http")])
def test_a_slice_without_the_port_says_what_it_has(ports: Any, asked: int | str) -> None:
    item = endpoint_slice("s", endpoint("a", "10.0.0.1"), ports=ports)
    with pytest.raises(MalformedObject, match=r"metrics \(9000\)" if ports else "none"):
        read_slice(item, asked)


def test_an_empty_slice_needs_no_port() -> None:
    assert read_slice(endpoint_slice("s", ports=TWO), "grpc") == Reading()
    assert read_slice(endpoint_slice("s") | {"endpoints": None}, 1) == Reading()


def test_one_bad_address_costs_that_endpoint_alone() -> None:
    item = endpoint_slice(
        "s", endpoint("a", "not an address"), endpoint("b", "10.0.0.2"), endpoint("c", "")
    )
    item["endpoints"].extend([{"addresses": []}, {"addresses": None}, {}, 7])
    reading = read_slice(item, 8000)
    assert keys(reading) == ["voice/b/uid-b"]
    assert len(reading.doubts) == 1


def test_hints_of_a_slice_are_those_of_its_service() -> None:
    item = endpoint_slice("s", endpoint("a", "10.0.0.1"))
    item["metadata"]["labels"] |= {f"{HINT_PREFIX}weight": "3", f"{HINT_PREFIX}model": "m"}
    (engine,) = read_slice(item, 8000).candidates
    assert (engine.weight, engine.models) == (3.0, ("m",))


@given(JSON, st.sampled_from(["endpoints", "ports", "metadata", "one"]))
def test_a_slice_with_any_part_replaced_is_read_or_refused(junk: Any, part: str) -> None:
    item = endpoint_slice("s", endpoint("a", "10.0.0.1"))
    if part == "one":
        item["endpoints"] = [junk, endpoint("a", "10.0.0.1") | {"conditions": junk}]
    else:
        item[part] = junk
    try:
        read_slice(item, 8000)
    except MalformedObject:
        return


def engine(key: str, url: str = "http://10.0.0.1:80", is_terminating: bool = False) -> Candidate:
    return Candidate(key, url, is_terminating=is_terminating)


def test_an_engine_lives_as_long_as_one_object_names_it() -> None:
    book = EndpointBook()
    assert book.put("s1", [engine("a"), engine("b")]) == ("a", "b")
    assert book.put("s2", [engine("b"), engine("c")]) == ("b", "c")
    assert [each.key for each in book.engines()] == ["a", "b", "c"]
    assert book.put("s1", []) == ("a", "b")
    assert [each.key for each in book.engines()] == ["b", "c"]
    assert book.engine("a") is None
    assert book.put("s1", []) == ()
    assert repr(book) == "<EndpointBook objects=1 engines=2>"


def test_terminating_anywhere_is_gone_everywhere() -> None:
    book = EndpointBook()
    book.put("s1", [engine("a")])
    book.put("s2", [engine("a", is_terminating=True)])
    assert book.engine("a") is None
    assert book.engines() == ()
    book.put("s2", [])
    assert book.engine("a") == engine("a")


def test_ipv4_comes_before_ipv6_whatever_the_order() -> None:
    six, four = engine("a", "http://[fd00::1]:80"), engine("a", "http://10.0.0.1:80")
    for first, second in ((six, four), (four, six)):
        book = EndpointBook()
        book.put("s1", [first])
        book.put("s2", [second])
        assert book.engine("a") == four


Puts = list[tuple[str, list[Candidate]]]
PUTS = st.lists(
    st.tuples(
        st.sampled_from("xyz"),
        st.lists(
            st.builds(engine, st.sampled_from("abcd"), is_terminating=st.booleans()),
            max_size=3,
            unique_by=lambda each: each.key,
        ),
    )
)


@given(PUTS)
def test_any_history_gives_what_the_last_words_give(
    puts: list[tuple[str, list[Candidate]]],
) -> None:
    history, last = EndpointBook(), EndpointBook()
    for name, candidates in puts:
        touched = history.put(name, candidates)
        assert {each.key for each in candidates} <= set(touched)
    for name, candidates in dict(puts).items():
        last.put(name, candidates)
    assert set(history.engines()) == set(last.engines())


def test_of_a_slice_that_is_wrong_all_through_some_examples_are_told() -> None:
    wrong = [{"addresses": ["10.0.0.300" + "x" * 10_000]} for _ in range(500)]
    reading = read_slice(endpoint_slice("s", *wrong), 8000)
    assert reading.candidates == ()
    assert len(reading.doubts) == 10
    assert all(len(doubt) < 400 for doubt in reading.doubts)


@pytest.mark.parametrize("value", ["\ud800", "a/b", 7, None])
def test_a_target_that_could_not_be_part_of_an_id_is_known_by_its_address(value: Any) -> None:
    item = endpoint_slice("s", endpoint("a", "10.0.0.1"))
    item["endpoints"][0]["targetRef"]["uid"] = value
    assert keys(read_slice(item, 8000)) == ["voice/engines/10.0.0.1:8000"]
