from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.settings import Settings, WrongSetting

NAMES = st.text(st.characters(exclude_characters=",", exclude_categories=("C", "Z")), min_size=1)


def settings(**values: Any) -> Settings:
    return Settings.model_validate({"static_backends": "http://a", **values})


def wrong(**values: Any) -> WrongSetting:
    with pytest.raises(ValidationError) as failure:
        Settings.model_validate(values)
    cause = failure.value.errors()[0]["ctx"]["error"]
    assert isinstance(cause, WrongSetting)
    return cause


def test_the_defaults_are_those_of_the_documentation() -> None:
    chosen = settings()
    assert (chosen.host, chosen.port) == ("0.0.0.0", 8001)
    assert chosen.routing_logic == "least-loaded"
    assert chosen.max_attempts == 3
    assert chosen.split_longer_than_s == 30
    assert chosen.vad == "silero"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_field_is_described_and_has_its_group(name: str) -> None:
    field = Settings.model_fields[name]
    assert (field.description or "").endswith(".")
    assert isinstance(field.json_schema_extra, dict)
    assert field.json_schema_extra["group"]


@given(st.lists(NAMES, min_size=1))
def test_lists_may_be_written_with_commas_repeated_or_both(names: list[str]) -> None:
    expected = tuple(names)
    for written in (",".join(names), names, [",".join(names)], " , ".join(names)):
        assert settings(static_models=written).static_models == expected


def test_empty_items_of_a_list_are_nothing() -> None:
    assert settings(static_models=" ,a,,").static_models == ("a",)


@pytest.mark.parametrize("written", ["a:m,b:x/y:z", ["a:m", "b:x/y:z"], {"a": "m", "b": "x/y:z"}])
def test_aliases_are_pairs_and_models_may_hold_colons(written: Any) -> None:
    assert settings(static_aliases=written).static_aliases == (("a", "m"), ("b", "x/y:z"))


@pytest.mark.parametrize(
    "written",
    [
        "a:b:language=no,verbose_json=yes,c:max_audio_s=600",
        ["a:b:language=no", "a:b:verbose_json=yes,c:max_audio_s=600"],
        {"a:b": {"language": False, "verbose_json": "yes"}, "c": {"max_audio_s": 600}},
    ],
)
def test_capabilities_are_stated_as_a_flag_or_as_a_mapping(written: Any) -> None:
    assert settings(model_capabilities=written).model_capabilities == (
        ("a:b", Capabilities(verbose_json=True, language=False)),
        ("c", Capabilities(max_audio_s=600.0)),
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("language=no", "write MODEL:language=no"),
        ({"m": "language=no"}, "'m' should have names and values"),
        ({"m": {"speed": 1}}, "'speed' is not a capability"),
    ],
)
def test_capabilities_that_cannot_be_are_refused_with_what_to_write(
    written: Any, words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(model_capabilities=written)


@pytest.mark.parametrize("written", ["a", "a:", ":m"])
def test_half_an_alias_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="alias:model"):
        settings(static_aliases=written)


@pytest.mark.parametrize(("written", "limit"), [("auto", "auto"), (None, "auto"), ("8", 8), (8, 8)])
def test_a_limit_is_a_number_or_auto(written: Any, limit: Any) -> None:
    assert settings(engine_max_windows=written).engine_max_windows == limit


@pytest.mark.parametrize(
    ("written", "value"), [("off", "off"), ("auto", "auto"), ("1.5", 1.5), (2, 2.0)]
)
def test_hedging_is_off_auto_or_seconds(written: Any, value: Any) -> None:
    assert settings(hedge_after=written).hedge_after == value


@pytest.mark.parametrize(
    "values",
    [
        {"port": -1},
        {"port": 65536},
        {"workers": 0},
        {"read_timeout_s": 0},
        {"read_timeout_s": "inf"},
        {"max_attempts": 0},
        {"engine_max_windows": 0},
        {"hedge_after": "never"},
        {"split": "sometimes"},
        {"no_such_setting": 1},
        {"max_connections": 0},
        {"max_connections": 10**9},
        {"workers": 4, "max_connections": 3},
        *(
            {field: value}
            for field in (
                "max_upload_mb",
                "spool_memory_mb",
                "spool_max_mb",
                "max_queue_audio_s",
                "max_audio_s",
                "key_max_audio_s",
                "key_audio_s_per_minute",
            )
            for value in ("inf", "nan", "1e308", "-1", 0)
        ),
    ],
)
def test_what_is_out_of_bounds_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**values)


def test_secrets_are_not_in_the_settings_own_text() -> None:
    shown = repr(settings(api_key="s3cret", engine_api_key="s3cret", admin_key="s3cret"))
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "static_backends"),
        ({"service_discovery": "file"}, "discovery_file"),
        ({"service_discovery": "dns"}, "dns_name"),
        ({"service_discovery": "k8s"}, "k8s_label_selector"),
        ({"static_backends": "http://a", "api_key_file": "/no/such"}, "api_key_file"),
        ({"static_backends": "http://a", "engine_ca_file": "/no/such"}, "engine_ca_file"),
        ({"static_backends": "http://a", "spool_dir": "/no/such"}, "spool_dir"),
        ({"static_backends": "http://a", "routing_logic": "session"}, "session_key"),
    ],
)
def test_what_does_not_agree_names_the_field_at_fault(values: dict[str, Any], field: str) -> None:
    error = wrong(**values)
    assert error.field == field
    assert error.message.endswith(".")


def test_other_ways_of_finding_engines_need_no_backends(tmp_path: Path) -> None:
    listing = tmp_path / "engines.yaml"
    listing.write_text("[]")
    for values in (
        {"service_discovery": "file", "discovery_file": str(listing)},
        {"service_discovery": "dns", "dns_name": "engines"},
        {"service_discovery": "k8s", "k8s_label_selector": "app=whisper"},
    ):
        assert Settings.model_validate(values).static_backends == ()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("*", ("*",)),
        ("", ()),
        ([], ()),
        ("https://App.Example:443, http://localhost:3000", None),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
    ],
)
def test_origins_are_kept_as_browsers_write_them(given: Any, kept: tuple[str, ...] | None) -> None:
    expected = ("https://app.example", "http://localhost:3000") if kept is None else kept
    assert settings(cors_origins=given).cors_origins == expected


def test_every_origin_is_allowed_by_default() -> None:
    assert settings().cors_origins == ("*",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("https://app.example/", "with neither a path nor a slash at its end"),
        ("https://app.example/x", "with neither a path"),
        ("app.example", "is not an origin such as"),
        ("https://*.example", "is not an origin such as"),
        ("https://user@app.example", "is not an origin such as"),
        ("https://\u00e4pp.example", "is not an origin such as"),
        ("null", "is not an origin such as"),
        ("https://", "is not an origin such as"),
        ("*,https://app.example", "give it alone or leave it out"),
    ],
)
def test_what_no_browser_writes_is_refused_with_a_sentence(given: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(cors_origins=given)
