from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.discovery.engine_file import parse_engine_file, read_engine_file
from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.scheduling.engine import EngineId, EngineSpec

GOOD = """\
# The fleet.
engines:
  - url: http://10.0.0.1:8000/
    models: [openai/whisper-small, small, small]
    label: eu
    weight: 2
    gpu: H200
    capabilities:
      verbose_json: no
      max_file_mb: 25
      containers: [wav, m4a]
  - url: http://10.0.0.2:8000
    models: openai/whisper-small
  - {url: "http://[fd00::1]:8000", model_type: transcription}
"""


def test_engines_are_read_with_all_they_say() -> None:
    first, second, third = parse_engine_file(GOOD.encode())
    assert first == EngineSpec(
        engine_id=EngineId("http://10.0.0.1:8000"),
        url="http://10.0.0.1:8000",
        models=("openai/whisper-small", "small"),
        label="eu",
        weight=2.0,
        gpu="H200",
        capabilities=Capabilities(
            verbose_json=False,
            max_file_bytes=25 * 2**20,
            containers=frozenset({"wav", "mp4"}),
        ),
    )
    assert second.capabilities is None
    assert second.models == ("openai/whisper-small",)
    assert (third.url, third.models, third.weight) == ("http://[fd00::1]:8000", None, 1.0)


def test_the_list_may_stand_alone_and_use_anchors() -> None:
    text = "- &a {url: http://a, weight: 3}\n- <<: *a\n  url: http://b\n"
    assert [(spec.url, spec.weight) for spec in parse_engine_file(text.encode())] == [
        ("http://a", 3.0),
        ("http://b", 3.0),
    ]


def test_a_list_that_says_it_is_empty_is_believed() -> None:
    assert parse_engine_file(b"engines: []") == ()
    assert parse_engine_file(b"[]") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("# nothing\n", "it is empty"),
        ("engines:\n", "line 1: the list: input should be a valid list"),
        ("hello", "line 1: the list: should be keys"),
        ("other: 1\nengines: []", "line 1: other"),
        ("engines:\n  - url: http://a\n    colour: red\n", "line 3: colour"),
        ("engines:\n  - url: http://a\n  - weight: 2\n", "line 3: url: field required"),
        ("engines:\n  - url: http://a\n    weight: fast\n", "line 3: weight"),
        ("engines:\n  - url: http://a\n    weight: 0\n", "line 3: weight"),
        ("engines:\n  - url: http://a\n    weight: .nan\n", "line 3: weight"),
        ("engines:\n  - url: http://a\n    models: []\n", "line 3: models"),
        (
            "engines:\n  - url: http://a\n    models:\n      - m\n      - [x]\n",
            "line 5: models",
        ),
        ("engines:\n  - url: http://a\n    model_type: chat\n", 'line 2: .*"chat"'),
        (
            "engines:\n  - url: http://a\n  - url: http://A:80/\n",
            "line 3: http://a is listed twice",
        ),
        ("engines:\n  - url: nonsense\n", 'line 2: "nonsense"'),
        ("engines:\n  - url: http://a\n    url: http://b\n", 'line 3: "url" appears twice'),
        ("engines:\n  - url: http://a\n   weight: 2\n", "line 3: not YAML"),
        ("engines: [\n", "line 2: not YAML"),
        ("engines: !!python/object:os.system {}\n", "line 1: not YAML"),
        ("engines: *nothing\n", "line 1: not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("\x00", "not YAML"),
        ("[" * 100_000, "line 1: nested too deeply"),
        ("- " * 17, "line 1: nested too deeply"),
        ("engines: &a [*a, *a]\n", "line 1: an engine: should be keys"),
        ("? [a, b]\n: 1\n", "line 1: not YAML"),
        (
            "- url: http://a\n  weight: 2026-99-99\n",
            'line 2: not YAML: "2026-99-99" is not a valid',
        ),
        (
            "- url: http://a\n  weight: !!bool maybe\n",
            'line 2: not YAML: "maybe" is not a valid bool',
        ),
        ("- url: http://a\n  weight: !!timestamp x\n", "line 2: not YAML"),
        ("- url: http://a\n  weight: !!int ''\n", "line 2: not YAML"),
        (f"- url: http://a\n  weight: {'9' * 5000}\n", "line 2: not YAML"),
        (f"- url: http://a\n  weight: 1{':1' * 400}.0\n", "line 2: not YAML"),
        (
            '- url: http://a\n  label: "a\\nb"\n',
            "line 2: label: should have at most 500 characters",
        ),
        (f"- url: http://a\n  models: [{'x' * 501}]\n", "line 2: models: should have at most 500"),
        (f"- url: http://a\n  models: [{'m, ' * 1001}]\n", "line 2: models: list should have at"),
        (f"engines: [{'{url: http://a}, ' * 10_001}]\n", "line 1: the list: list should have at"),
        ("engines: []\n7: x\n", "line 1: an engine: keys should be strings"),
        ("- 7\n", "line 1: an engine: should be keys"),
        ("- url: http://a\n  capabilities: [x]\n", "line 2: capabilities: should be names and val"),
        (
            "- url: http://a\n  capabilities:\n    speed: 3\n",
            "line 2: capabilities: 'speed' is not a capability; allowed: verbose_json",
        ),
        (
            "- url: http://a\n  capabilities: {language: perhaps}\n",
            "line 2: capabilities: 'language' should be yes or no",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_engine_file(text.encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "weight",
    ["1.0e+308", "5e-324", "1e-320", "0.0099", "100.1", ".inf", "-.inf", ".nan", "true", "[1]"],
)
def test_a_weight_outside_its_bounds_is_refused_with_them(weight: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: weight: should be a number from 0\.01 to 100"):
        parse_engine_file(f"- url: http://a\n  weight: {weight}\n".encode())


YAML_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.dates()
    | st.sampled_from([1.0e308, 5e-324, 1e-320, 10**400, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(["models", "model_type", "label", "weight", "gpu", "url", "capabilities"]),
    YAML_VALUES,
)
def test_any_value_of_any_key_gives_a_usable_engine_or_one_sentence(key: str, value: Any) -> None:
    content = yaml.safe_dump([{"url": "http://a", key: value}]).encode()
    said = ""
    try:
        (spec,) = parse_engine_file(content)
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    if said:
        return
    assert 0.01 <= spec.weight <= 100
    texts = [*(spec.models or ()), spec.label or "-", spec.gpu or "-", spec.url]
    assert all(text.isprintable() and 0 < len(text) <= 1024 for text in texts)


def test_aliases_do_not_multiply_the_work() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 99)}]" for n in range(1, 40)]
    with pytest.raises(ValueError, match="line 1: a0"):
        parse_engine_file("\n".join([*lines, "engines: *a39"]).encode())


def test_a_file_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than 4 MiB"):
        parse_engine_file(b"#" * (4 * 1024 * 1024 + 1))


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for text in (content, b"engines:\n  - url: " + content, b"- {url: http://a, " + content):
        try:
            parse_engine_file(text)
        except ValueError as error:
            said = str(error)
            assert "\n" not in said


def test_a_file_is_named_in_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "engines.yaml"
    with pytest.raises(ValueError, match=r"engines\.yaml: No such file"):
        read_engine_file(path)
    path.write_text("- url: nonsense")
    with pytest.raises(ValueError, match=r"engines\.yaml: line 1: "):
        read_engine_file(path)
    path.write_text(GOOD)
    assert len(read_engine_file(path)) == 3
