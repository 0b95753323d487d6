import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.discovery.kube_api import pod

from vllm_router.discovery.kube_objects import (
    HINT_PREFIX,
    Candidate,
    MalformedObject,
    Reading,
    parse_port,
    read_meta,
    read_pod,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


def test_a_running_ready_pod_is_an_engine_known_by_namespace_name_and_uid() -> None:
    assert read_pod(pod("a", "10.0.0.7", uid="u"), 8000) == Reading(
        (Candidate("voice/a/u", "http://10.0.0.7:8000"),)
    )


def test_an_ipv6_pod_has_brackets_in_its_url() -> None:
    (engine,) = read_pod(pod("a", "fd00::7"), 8000).candidates
    assert engine.url == "http://[fd00::7]:8000"


@pytest.mark.parametrize(
    "what",
    [
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"phase": "Pending"},
        {"phase": "Failed"},
        {"phase": "Succeeded"},
        {"phase": "Unknown"},
        {"conditions": []},
        {"conditions": None},
        {"conditions": [{"type": "Ready", "status": "False"}]},
        {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        {"conditions": [{"type": "ContainersReady", "status": "True"}]},
        {"readinessGates": [{"conditionType": "x/gate"}]},
        {"ip": None},
        {"ip": ""},
    ],
)
def test_a_pod_that_is_not_fit_is_no_engine(what: dict[str, Any]) -> None:
    assert read_pod(pod("a", **what), 8000) == Reading()


def test_a_readiness_gate_that_holds_lets_the_pod_in() -> None:
    conditions = [{"type": "Ready", "status": "True"}, {"type": "x/gate", "status": "True"}]
    gates = [{"conditionType": "x/gate"}]
    assert read_pod(pod("a", conditions=conditions, readinessGates=gates), 8000).candidates


def test_a_port_is_found_by_name_in_containers_and_sidecars() -> None:
    plain = [{"name": "x"}, {"name": "y", "ports": [{"name": "api", "containerPort": 9000}]}]
    (engine,) = read_pod(pod("a", containers=plain), "api").candidates
    assert engine.url == "http://10.0.0.1:9000"
    (engine,) = read_pod(pod("a", containers=[], initContainers=plain), "api").candidates
    assert engine.url == "http://10.0.0.1:9000"


def test_a_pod_may_hold_several_engines() -> None:
    annotations = {f"{HINT_PREFIX}port": "8001, http,8001"}
    engines = read_pod(pod("a", annotations=annotations), 1).candidates
    assert [(each.key, each.url) for each in engines] == [
        ("voice/a/uid-a:8001", "http://10.0.0.1:8001"),
        ("voice/a/uid-a:8000", "http://10.0.0.1:8000"),
    ]


def test_an_annotation_beats_a_label_and_a_blank_one_says_nothing() -> None:
    item = pod(
        "a",
        labels={f"{HINT_PREFIX}gpu": "A10", f"{HINT_PREFIX}label": "eu"},
        annotations={f"{HINT_PREFIX}gpu": "H200", f"{HINT_PREFIX}label": "  "},
    )
    (engine,) = read_pod(item, 8000).candidates
    assert (engine.gpu, engine.label) == ("H200", "eu")


def test_the_gpu_that_a_pod_asks_its_node_for_is_known() -> None:
    (engine,) = read_pod(pod("a", nodeSelector={"nvidia.com/gpu.product": "L4"}), 1).candidates
    assert engine.gpu == "L4"


@pytest.mark.parametrize(
    "written",
    ["x", "0", "-1", "nan", "inf", "1e999", "1.0e+308", "5e-324", "1e-320", "0.001", "101"],
)
def test_a_wrong_weight_is_doubted_and_the_engine_used(written: str) -> None:
    reading = read_pod(pod("a", annotations={f"{HINT_PREFIX}weight": written}), 8000)
    assert reading.candidates[0].weight == 1.0
    assert written in reading.doubts[0]


@pytest.mark.parametrize(
    ("item", "port", "said"),
    [
        (pod("a"), "grpc", 'a port named "grpc"'),
        (pod("a", annotations={f"{HINT_PREFIX}port": "grpc"}), 8000, "asks for"),
        (pod("a", annotations={f"{HINT_PREFIX}port": "70000"}), 8000, "70000"),
        (pod("a", annotations={f"{HINT_PREFIX}port": "8000,"}), 8000, "neither"),
        (pod("a", "10.0.0.300"), 8000, "host name or IP"),
        ({"metadata": {"name": "a"}}, 8000, "UID"),
        ({"metadata": {"uid": "a"}}, 8000, "name"),
        ({}, 8000, "name"),
    ],
)
def test_what_cannot_be_used_says_why(item: dict[str, Any], port: int | str, said: str) -> None:
    with pytest.raises(MalformedObject, match=said):
        read_pod(item, port)


def test_the_identity_of_no_object_is_refused() -> None:
    with pytest.raises(MalformedObject):
        read_meta(None)


@given(JSON)
def test_any_json_is_read_or_refused(item: Any) -> None:
    try:
        read_meta(item)
    except MalformedObject:
        return
    read_pod(item, 8000)


@given(JSON, st.data())
def test_a_pod_with_any_part_replaced_is_read_or_refused(junk: Any, data: st.DataObject) -> None:
    item: Any = copy.deepcopy(pod("a", readinessGates=[], initContainers=[], nodeSelector={}))
    holder, key = item, data.draw(st.sampled_from(sorted(item)))
    while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = data.draw(st.sampled_from(keys))
    holder[key] = junk
    try:
        reading = read_pod(item, "http")
    except MalformedObject:
        return
    assert all(isinstance(each, Candidate) for each in reading.candidates)


@pytest.mark.parametrize("junk", [[], {}, 1, None])
def test_a_condition_of_no_known_type_says_nothing(junk: Any) -> None:
    item: Any = pod("a", readinessGates=[{"conditionType": junk}])
    assert not read_pod(item, "http").candidates
    item = pod("a")
    item["status"]["conditions"].append({"type": junk, "status": "True"})
    assert read_pod(item, "http").candidates


@pytest.mark.parametrize(("written", "port"), [("8000", 8000), ("65535", 65535), ("http", "http")])
def test_a_port_is_a_number_or_a_name(written: str, port: int | str) -> None:
    assert parse_port(written) == port


@pytest.mark.parametrize("written", ["", "0", "65536", "-1", "HTTP", "a_b", "x" * 16, "-a", "٣"])
def test_what_is_no_port_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        parse_port(written)


@given(JSON, st.sampled_from(["model", "weight", "gpu", "label"]))
def test_any_annotation_gives_an_engine_whose_values_are_bounded(value: Any, name: str) -> None:
    item: Any = pod("a", annotations={HINT_PREFIX + name: value})
    (engine,) = read_pod(item, 8000).candidates
    assert 0.01 <= engine.weight <= 100
    texts = [*(engine.models or ()), engine.gpu or "-", engine.label or "-"]
    assert all(text.isprintable() and 0 < len(text) <= 500 for text in texts)


@pytest.mark.parametrize("name", ["model", "gpu", "label"])
@pytest.mark.parametrize("written", ["a\nERROR forged", "\ud800", "x" * 501, "a\x1b[2J"])
def test_a_hint_that_cannot_be_printed_is_doubted_and_left_out(name: str, written: str) -> None:
    reading = read_pod(pod("a", annotations={HINT_PREFIX + name: written}), 8000)
    (engine,) = reading.candidates
    assert (engine.models, engine.gpu, engine.label) == (None, None, None)
    assert len(reading.doubts) == 1
    assert reading.doubts[0].isprintable()


@pytest.mark.parametrize("field", ["name", "uid"])
@pytest.mark.parametrize("value", ["\ud800", "a/b", "a\nb", "x" * 254, 7, None, {}])
def test_what_could_not_be_part_of_an_id_identifies_nothing(field: str, value: Any) -> None:
    item: Any = pod("a")
    item["metadata"][field] = value
    with pytest.raises(MalformedObject, match="no usable name"):
        read_meta(item)


def test_a_pod_with_a_port_for_each_day_of_the_year_is_a_mistake() -> None:
    ports = ",".join(map(str, range(8000, 8365)))[:1000].rpartition(",")[0]
    with pytest.raises(MalformedObject, match="names more than 64 ports"):
        read_pod(pod("a", annotations={HINT_PREFIX + "port": ports}), 8000)
