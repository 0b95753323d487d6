"""Reading the three sources; what starting does with them is tested end to end."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router import __version__
from vllm_router.cli import (
    WrongUse,
    build_parser,
    default_text,
    flag_of,
    main,
    read_settings,
)
from vllm_router.settings import Settings

BACKEND = ["--static-backends", "http://a"]


def test_every_field_is_a_flag_in_its_group() -> None:
    text = build_parser().format_help()
    for name, field in Settings.model_fields.items():
        assert flag_of(name) in text
        assert isinstance(field.json_schema_extra, dict)
        assert f"{field.json_schema_extra['group']}:" in text


def test_help_shows_choices_defaults_and_kinds() -> None:
    text = " ".join(build_parser().format_help().split())
    assert "--service-discovery {static,k8s,file,dns} Source of the engine list. [static]" in text
    assert "--port N" in text
    assert "--spool-dir DIR" in text
    assert "--access-log, --no-access-log" in text
    assert "95th percentile. [off]" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [("port", "8001"), ("access_log", "on"), ("log_stats", "off"), ("max_queue_audio_s", "360000"),
     ("api_key", ""), ("admin_key", ""), ("k8s_label_selector", "")],
)  # fmt: skip
def test_defaults_are_written_as_on_the_command_line(name: str, text: str) -> None:
    assert default_text(Settings.model_fields[name]) == text


def test_flags_may_be_repeated_where_they_are_lists() -> None:
    chosen = read_settings([*BACKEND, "--api-key", "a", "--api-key", "b,c"], {})
    assert [key.get_secret_value() for key in chosen.api_key] == ["a", "b", "c"]


def test_switches_go_both_ways() -> None:
    assert read_settings([*BACKEND, "--log-stats"], {}).log_stats
    is_on = {"VLLM_ROUTER_ACCESS_LOG": "on"}
    assert not read_settings([*BACKEND, "--no-access-log"], is_on).access_log


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("off", False), ("1", True), ("0", False)]
)
def test_switches_in_the_environment(word: str, value: bool) -> None:
    assert read_settings(BACKEND, {"VLLM_ROUTER_LOG_STATS": word}).log_stats is value


def test_vllms_own_variable_is_the_engines_key_unless_ours_is_there() -> None:
    def key(environment: dict[str, str], *argv: str) -> str:
        secret = read_settings([*BACKEND, *argv], environment).engine_api_key
        assert secret is not None
        return secret.get_secret_value()

    theirs = {"VLLM_API_KEY": "theirs"}
    ours = {**theirs, "VLLM_ROUTER_ENGINE_API_KEY": "ours"}
    assert key(theirs) == "theirs"
    assert key(ours) == "ours"
    assert key(ours, "--engine-api-key", "flag") == "flag"


def test_an_empty_variable_is_none() -> None:
    assert read_settings(BACKEND, {"VLLM_ROUTER_PORT": ""}).port == 8001


@given(st.sampled_from(["", "--"]), st.booleans(), st.integers(1, 65535))
def test_a_files_keys_may_be_written_like_flags(dashes: str, is_snake: bool, port: int) -> None:
    key = dashes + ("drain-timeout-s".replace("-", "_") if is_snake else "drain-timeout-s")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(f"{key}: {port}\nstatic-backends: [http://a, http://b]\nadmin-key:\n")
        file.flush()
        chosen = read_settings(["--config", file.name], {})
    assert chosen.drain_timeout_s == port
    assert chosen.static_backends == ("http://a", "http://b")
    assert chosen.admin_key is None


def test_an_empty_file_is_no_settings(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert read_settings([*BACKEND, "--config", str(tmp_path / "c.yaml")], {}).port == 8001


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"- 1",
        b"a: [",
        b"1",
        b"no_such: 1",
        b"port: {a: 1}",
        b"port: 2026-99-99",
        b"port: !!bool maybe",
        b"port: " + b"[" * 20_000,
        b"port: 1\n" + b"#" * 2**20,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_file_that_cannot_be_used_is_one_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(data)
    with pytest.raises(WrongUse) as wrong:
        read_settings([*BACKEND, "--config", str(path)], {})
    assert "\n" not in str(wrong.value)
    assert str(wrong.value).endswith(".")


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(WrongUse, match="cannot be read: it is not a regular file"):
            read_settings([*BACKEND, "--config", str(path)], {})


def test_flags_may_not_be_shortened() -> None:
    with pytest.raises(WrongUse, match="--static-back"):
        read_settings(["--static-back", "http://a"], {})


def test_a_wrong_key_is_not_shown() -> None:
    with pytest.raises(WrongUse) as wrong:
        read_settings([*BACKEND, "--key-max-audio-s", "s3cret"], {})
    assert "s3cret" not in str(wrong.value)


def test_version_and_help_end_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("--version", "--help"):
        with pytest.raises(SystemExit) as end:
            main([argument])
        assert end.value.code == 0
    assert f"vllm-router {__version__}" in capsys.readouterr().out


def test_no_origin_can_be_said_by_flag_environment_and_file(tmp_path: Path) -> None:
    file = tmp_path / "router.yaml"
    file.write_text("cors-origins: []\n")
    for argv, environment in (
        (["--cors-origins", ""], {}),
        ([], {"VLLM_ROUTER_CORS_ORIGINS": ""}),
        (["--config", str(file)], {}),
    ):
        assert read_settings([*BACKEND, *argv], environment).cors_origins == ()
    with pytest.raises(WrongUse, match="--cors-origins: 'x' is not an origin"):
        read_settings([*BACKEND, "--cors-origins", "x"], {})
