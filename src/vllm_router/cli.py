"""Read `Settings` from the command line, the environment and a file; the only module that exits.

The command line overrides the environment, which overrides the file. Any error ends the program
with one plain sentence that names the flag, and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

import yaml
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from vllm_router import __version__
from vllm_router.app.compiled import how_it_runs
from vllm_router.discovery.regular_file import read_regular_file
from vllm_router.settings import Settings, WrongSetting

ENVIRONMENT_PREFIX = "VLLM_ROUTER_"
#: All flags with a comment each take 10 KB; ten thousand static engines take 600 KB.
MAX_CONFIG_BYTES = 1024 * 1024

#: PyYAML's constructors raise more than YAMLError: ValueError for the date 2026-99-99, KeyError for
#: `!!bool maybe`, RecursionError for a thousand brackets.
_NOT_YAML = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class WrongUse(Exception):
    """The command cannot be carried out; the message is written for its user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUse(message[:1].upper() + message[1:].rstrip(".") + ".")


def flag_of(field: str) -> str:
    """Return the flag of a settings field."""
    return "--" + field.replace("_", "-")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, generated from the settings' fields."""
    parser = _Parser(
        prog="vllm-router",
        description="OpenAI-compatible audio API in front of a fleet of Whisper engines on vLLM.",
        epilog=f"Each flag is also an environment variable: --log-level is "
        f"{ENVIRONMENT_PREFIX}LOG_LEVEL. The command line overrides the environment, and the "
        "environment overrides the file.",
        allow_abbrev=False,
    )
    version = f"vllm-router {__version__} ({how_it_runs()})"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--config", metavar="FILE", help="YAML file with flag names as keys.")
    groups: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        title = str(extra["group"])
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        text = (field.description or "").replace("%", "%%")
        shown = default_text(field)
        text += f" [{shown}]" if shown else ""
        if field.annotation is bool:
            action = argparse.BooleanOptionalAction
            group.add_argument(flag_of(name), action=action, default=None, help=text)
            continue
        is_list = isinstance(field.default, tuple)
        group.add_argument(
            flag_of(name),
            action="append" if is_list else "store",
            default=None,
            metavar=extra.get("metavar") or _metavar(field),
            help=text,
        )
    return parser


def default_text(field: FieldInfo) -> str:
    """Return a field's default as written on the command line; empty if it has none."""
    default = field.default
    if default is None or default == () or default == "":
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _metavar(field: FieldInfo) -> str:
    choices = [str(a) for a in get_args(field.annotation) if isinstance(a, str)]
    if choices:
        return "{" + ",".join(choices) + "}"
    kind: Any = field.annotation
    if isinstance(kind, types.UnionType):
        kind = get_args(kind)[0]
    return {int: "N", float: "N", Path: "PATH"}.get(kind, "TEXT")


def read_settings(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Return the settings from all three sources.

    Raises:
        WrongUse: A setting is invalid; the message names the flag.
    """
    arguments = vars(build_parser().parse_args(argv))
    config = arguments.pop("config") or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    values = _read_file(Path(config)) if config else {}
    values |= _read_environment(environment)
    values |= {name: value for name, value in arguments.items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as e:
        raise WrongUse(_sentence(e)) from e


def _read_file(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(read_regular_file(path, MAX_CONFIG_BYTES).decode())
    except OSError as e:
        raise WrongUse(f"--config: '{path}' cannot be read: {e.strerror}.") from e
    except _NOT_YAML as e:
        raise WrongUse(f"--config: '{path}' is not YAML: {' '.join(str(e).split())}.") from e
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise WrongUse(f"--config: '{path}' must be a mapping of flag names to values.")
    values = {str(key).removeprefix("--").replace("-", "_"): value for key, value in data.items()}
    for name in values:
        if name not in Settings.model_fields:
            raise WrongUse(f"--config: '{path}' names a setting that does not exist: {name}.")
    return {name: value for name, value in values.items() if value is not None}


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if key := environment.get("VLLM_API_KEY"):
        values["engine_api_key"] = key
    endpoint = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint and environment.get("OTEL_SDK_DISABLED", "").lower() != "true":
        values["otel_endpoint"] = endpoint
    for name, field in Settings.model_fields.items():
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        # An empty list is a valid value if the default is not empty.
        may_be_empty = isinstance(field.default, tuple) and bool(field.default)
        if text is None or not (text or may_be_empty):
            continue
        # Kubernetes sets VLLM_ROUTER_PORT=tcp://… in pods beside a Service named vllm-router.
        if not text.startswith("tcp://"):
            values[name] = text
    return values


def _sentence(e: ValidationError) -> str:
    error = e.errors(include_url=False)[0]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, WrongSetting):
        return f"{flag_of(cause.field)} {cause.message}"
    field = str(error["loc"][0])
    if isinstance(cause, ValueError):
        return f"{flag_of(field)}: {cause}."
    given = error["input"]
    shown = "" if isinstance(given, SecretStr) or "key" in field else f" '{given}'"
    return f"{flag_of(field)}:{shown} is not usable: {error['msg'][:1].lower()}{error['msg'][1:]}."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the router; exit with 0 after a clean stop and with 2 after a usage error."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv, os.environ)
    except WrongUse as e:
        print(f"vllm-router: {e}", file=sys.stderr)
        sys.exit(2)
    # Imported late: a wrong flag is reported without loading the whole application.
    from vllm_router.app.run import CannotStart, run
    from vllm_router.app.workers import run_workers

    try:
        if settings.workers > 1:
            run_workers(settings)
        else:
            run(settings)
    except CannotStart as e:
        print(f"vllm-router: {str(e).rstrip('.')}.", file=sys.stderr)
        sys.exit(2)
