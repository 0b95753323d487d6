"""Every setting, once: its flag, its type, its unit, its default and the reason for it.

Flags, environment variables, the configuration file's keys and the documentation's table are all
made from `Settings`. Values are checked here and nowhere else; reading argv and files is `cli`'s
business.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from vllm_router.scheduling.capabilities import Capabilities
from vllm_router.scheduling.stated_capabilities import read_items, read_mapping


class WrongSetting(ValueError):
    """A setting cannot be used.

    Attributes:
        field: The name of the field at fault.
        message: One plain sentence.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


def _listed(value: Any) -> Any:
    """Split "a,b" and ["a,b", "c"] alike, as flags and environment variables bring them."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        items = [part.strip() for item in value for part in str(item).split(",")]
        return tuple(item for item in items if item)
    return value


def _paired(value: Any) -> Any:
    """Read "alias:model" pairs; a model's name may itself hold colons."""
    if isinstance(value, dict):
        return tuple(value.items())
    pairs = []
    for item in _listed(value):
        alias, colon, model = item.partition(":")
        if not colon or not alias or not model:
            raise ValueError(f"'{item}' is not of the form alias:model")
        pairs.append((alias, model))
    return tuple(pairs)


_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_USUAL_PORTS: Final = {"http": ":80", "https": ":443"}


def _origins(value: Any) -> Any:
    """Read "*" or origins as browsers write them: lower case, no path, no usual port."""
    origins = _listed(value)
    if not isinstance(origins, tuple) or origins == ("*",):
        return origins
    if "*" in origins:
        raise ValueError("'*' allows every origin; give it alone or leave it out")
    return tuple(_origin(origin) for origin in origins)


def _origin(text: str) -> str:
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(
            f"'{text}' is not an origin such as https://app.example.org or http://localhost:3000, "
            "with neither a path nor a slash at its end"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + ("" if port in (None, _USUAL_PORTS.get(scheme)) else port)


def _limit(value: Any) -> Any:
    if value in ("auto", None):
        return "auto"
    return value


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        return False


def _capable(value: Any) -> Any:
    """Read "model:name=value,name=value", or a mapping of models to names and values."""
    if isinstance(value, dict):
        stated = {}
        for model, values in value.items():
            if not isinstance(values, dict):
                raise ValueError(f"'{model}' should have names and values, such as language: no")
            stated[str(model)] = read_mapping({str(k): v for k, v in values.items()})
        return tuple(stated.items())
    if isinstance(value, str | list | tuple):
        return tuple(read_items(_listed(value)).items())
    return value


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Keys = Annotated[tuple[SecretStr, ...], BeforeValidator(_listed)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
Aliases = Annotated[tuple[tuple[str, str], ...], BeforeValidator(_paired)]
ModelCapabilities = Annotated[tuple[tuple[str, Capabilities], ...], BeforeValidator(_capable)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]
#: A petabyte: what is counted in bytes must stay a number that can be computed with.
MAX_MIB = 1e9
#: Some thirty years.
MAX_AUDIO_S = 1e9
Mib = Annotated[float, Field(gt=0, le=MAX_MIB, allow_inf_nan=False)]
AudioSeconds = Annotated[float, Field(gt=0, le=MAX_AUDIO_S, allow_inf_nan=False)]


def _field(group: str, default: Any, text: str, metavar: str | None = None, **bounds: Any) -> Any:
    extra: dict[str, Any] = {"group": group}
    if metavar:
        extra["metavar"] = metavar
    return Field(default, description=text, json_schema_extra=extra, **bounds)


class Settings(BaseModel):
    """The router's settings. Each field's description is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = _field("Address", "0.0.0.0", "Address to listen on.")  # noqa: S104
    port: int = _field(
        "Address", 8001, "Port to listen on; engines usually have 8000.", ge=0, le=65535
    )
    root_path: str = _field(
        "Address", "", "Path under which a proxy in front has mounted the router, such as /asr."
    )
    workers: int = _field(
        "Address",
        1,
        "Processes sharing the port; one carries thousands of uploads per second.",
        ge=1,
        le=64,
    )

    service_discovery: Literal["static", "k8s", "file", "dns"] = _field(
        "Engines", "static", "Where engines are found."
    )
    static_backends: Listed = _field(
        "Engines", (), "Engines' URLs, separated by commas.", "URL,URL"
    )
    static_models: Listed = _field(
        "Engines",
        (),
        "Each engine's model, in the order of the engines. Without it every engine is asked, and "
        "asked again at each probe.",
        "MODEL,MODEL",
    )
    static_model_types: Listed = _field(
        "Engines",
        (),
        "Each engine's kind of model; 'transcription' is the one served here.",
        "TYPE,TYPE",
    )
    static_model_labels: Listed = _field(
        "Engines", (), "Each engine's label, shown in /engines.", "LABEL,LABEL"
    )
    static_aliases: Aliases = _field(
        "Engines",
        (),
        "Further names for models, such as whisper-1:openai/whisper-small.",
        "ALIAS:MODEL",
    )
    model_capabilities: ModelCapabilities = _field(
        "Engines",
        (),
        "What a model's engines can do, where the router shall not find out: verbose_json, "
        "language (yes or no), max_audio_s, max_file_mb, containers, such as "
        "voxtral:verbose_json=no,max_file_mb=25,containers=wav+mp3; see docs/words.md.",
        "MODEL:NAME=VALUE,NAME=VALUE",
    )
    static_backend_health_checks: bool = _field(
        "Engines",
        False,
        "Probe engines by transcribing 0.1 s of silence, which notices an engine that hangs; "
        "otherwise by GET /health.",
    )
    static_backend_health_check_interval: Seconds = _field(
        "Engines", 10.0, "Seconds between two probes of an engine."
    )
    static_backend_health_check_timeout_seconds: Seconds = _field(
        "Engines", 10.0, "Seconds after which a probe counts as failed."
    )
    engine_stats_interval: Seconds = _field(
        "Engines",
        10.0,
        "Seconds between two readings of an engine's /metrics; of a busy engine one at most.",
    )
    engine_api_key: SecretStr | None = _field(
        "Engines", None, "Key given to engines; also read from VLLM_API_KEY.", "KEY"
    )
    engine_ca_file: Path | None = _field(
        "Engines",
        None,
        "Authorities (PEM) for engines with https URLs, besides the system's.",
        "FILE",
    )

    k8s_namespace: str | None = _field(
        "Kubernetes", None, "Namespace of the engines' pods; by default the router's own."
    )
    k8s_label_selector: str = _field(
        "Kubernetes",
        "",
        "Labels of the engines' pods or services, such as app=whisper.",
        "SELECTOR",
    )
    k8s_port: str = _field(
        "Kubernetes", "8000", "Engines' port, by number or by its name in the pod.", "PORT"
    )
    k8s_kubeconfig: str | None = _field(
        "Kubernetes",
        None,
        "Configuration file to use outside the cluster; by default KUBECONFIG, then the service "
        "account, then ~/.kube/config.",
        "FILE",
    )
    k8s_context: str | None = _field(
        "Kubernetes", None, "Context of that file; by default its current one.", "NAME"
    )
    k8s_service_discovery_type: Literal["pod-ip", "endpoint-slice"] = _field(
        "Kubernetes", "pod-ip", "Watch pods, or the endpoint slices of a service."
    )
    k8s_watcher_timeout_seconds: Seconds = _field(
        "Kubernetes", 60.0, "Seconds after which a silent watch is made anew."
    )
    discovery_file: Path | None = _field(
        "Engines",
        None,
        "YAML list of engines for --service-discovery file; edits take effect.",
        "FILE",
    )
    dns_name: Listed = _field(
        "Engines",
        (),
        "Names to resolve for --service-discovery dns; those beginning with _ are SRV names.",
        "NAME,NAME",
    )
    dns_port: int = _field(
        "Engines", 8000, "Engines' port where no SRV record brings one.", ge=1, le=65535
    )
    dns_refresh_s: Seconds = _field("Engines", 10.0, "Seconds between two look-ups of --dns-name.")

    routing_logic: Literal[
        "least-loaded", "roundrobin", "least-requests", "two-choices", "session"
    ] = _field("Balancing", "least-loaded", "How an engine is chosen; see docs/balancing.md.")
    session_key: str | None = _field(
        "Balancing",
        None,
        "Request header whose value keeps to one engine with 'session'.",
        "HEADER",
    )
    engine_max_windows: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)], BeforeValidator(_limit)
    ] = _field(
        "Balancing",
        "auto",
        "Windows of 30 s that one engine works on at a time; 'auto' learns it from what it does.",
        "N|auto",
    )
    max_queue_audio_s: AudioSeconds = _field(
        "Balancing",
        360_000.0,
        "Audio seconds that may wait per model before uploads are refused with 429.",
    )
    max_queue_wait_s: Seconds = _field(
        "Balancing", 600.0, "Seconds that an upload may have to wait before it is refused with 429."
    )
    hedge_after: Annotated[Literal["off", "auto"] | Seconds, Field(union_mode="left_to_right")] = (
        _field(
            "Balancing",
            "off",
            "Send a short upload to a second engine too when its answer takes longer than this "
            "many seconds; 'auto' takes the fleet's 95th percentile.",
            "S|auto|off",
        )
    )
    max_attempts: int = _field(
        "Balancing",
        3,
        "Engines that one upload may fail on before it is given up; one that it is moved away from "
        "because the engine hangs does not count.",
        ge=1,
        le=10,
    )
    engine_wait_s: Annotated[float, Field(ge=0, le=600)] = _field(
        "Balancing",
        5.0,
        "Seconds that an upload waits where no engine is ready but one may be back any moment.",
    )

    split: Literal["auto", "always", "off"] = _field(
        "Long audio",
        "auto",
        "Cut long audio in silence and spread it over all engines; 'always' cuts whatever is over "
        "one window.",
    )
    split_longer_than_s: Seconds = _field(
        "Long audio", 30.0, "Audio longer than this is cut with --split auto."
    )
    channels: Literal["mix", "left", "right", "each"] = _field(
        "Long audio",
        "mix",
        "Channels that are transcribed, where a request's 'channels' does not say; 'each' is for "
        "calls with one speaker per channel.",
    )
    vad: Literal["silero", "level", "off"] = _field(
        "Long audio",
        "silero",
        "How speech is told from other sound in long audio: by a neural network, by loudness "
        "alone, or not at all.",
    )
    verify: bool = _field(
        "Long audio",
        True,
        "Hold engines' words against the speech in the audio, and ask again where some are "
        "missing.",
    )
    skip_silence: bool = _field("Long audio", True, "Send only speech and the short pauses in it.")
    partial_ok: bool = _field(
        "Long audio",
        False,
        "Answer what could be transcribed when a piece fails for good, naming what is missing.",
    )
    max_audio_s: AudioSeconds = _field(
        "Long audio", 86_400.0, "Longest audio taken, in seconds; a bound against lying files."
    )
    decode_workers: int = _field("Long audio", 2, "Processes that decode long audio.", ge=1, le=64)
    stream_format: Literal["openai", "vllm"] = _field(
        "Long audio", "openai", "Events of streamed answers; a request's X-Stream-Format wins."
    )
    subtitle_max_line_chars: int = _field(
        "Long audio", 42, "Characters in a subtitle's line.", ge=10, le=500
    )
    subtitle_max_lines: int = _field("Long audio", 2, "Lines in a subtitle's cue.", ge=1, le=10)

    api_key: Keys = _field(
        "Access", (), "Key that clients must present; repeat the flag for several.", "KEY"
    )
    api_key_file: Path | None = _field(
        "Access",
        None,
        "File with a key a line, or name:key to name its holder in metrics; re-read on change.",
        "FILE",
    )
    admin_key: SecretStr | None = _field(
        "Access", None, "Key for draining engines; those routes are closed without one.", "KEY"
    )
    cors_origins: Origins = _field(
        "Access",
        ("*",),
        "Origins whose pages may use the router from a browser, such as https://app.example.org; "
        "'*' allows all, an empty value none.",
        "ORIGIN,ORIGIN",
    )
    key_max_audio_s: AudioSeconds | None = _field(
        "Access", None, "Audio seconds that one key may have in flight."
    )
    key_audio_s_per_minute: AudioSeconds | None = _field(
        "Access", None, "Audio seconds that one key may send per minute."
    )

    max_upload_mb: Mib = _field(
        "Uploads", 10_240.0, "Largest upload in MiB; ten hours of CD-quality WAV are 6,000."
    )
    spool_dir: Path | None = _field(
        "Uploads",
        None,
        "Folder for what of uploads is not held in memory; the system's by default.",
        "DIR",
    )
    spool_memory_mb: Literal["auto"] | Annotated[Mib, Field(ge=1)] = _field(
        "Uploads",
        "auto",
        "MiB of memory that all uploads together may hold; 'auto': a 32nd of what the machine or "
        "the container has, from 64 to 1024.",
        "MIB",
    )
    spool_max_mb: Mib = _field(
        "Uploads", 102_400.0, "MiB of disk that all uploads together may hold."
    )
    max_connections: int = _field(
        "Uploads",
        20_000,
        "Clients' connections held at a time, by all workers together; further ones are refused.",
        ge=1,
        le=1_000_000,
    )
    client_head_timeout_s: Seconds = _field(
        "Uploads", 15.0, "Seconds that a client may take to send a request's head."
    )
    client_body_timeout_s: Seconds = _field(
        "Uploads", 60.0, "Seconds that a client may be silent while its upload is coming."
    )
    client_idle_timeout_s: Seconds = _field(
        "Uploads", 75.0, "Seconds that an idle connection is kept."
    )
    connect_timeout_s: Seconds = _field("Timeouts", 5.0, "Seconds to reach an engine.")
    read_timeout_s: Seconds = _field(
        "Timeouts",
        120.0,
        "Seconds to wait for an engine's answer, and twice the audio's length if that is more.",
    )
    write_timeout_s: Seconds = _field(
        "Timeouts", 60.0, "Seconds that an engine may go without taking more of an upload."
    )
    shutdown_grace_s: Annotated[float, Field(ge=0, le=86400)] = _field(
        "Timeouts",
        0.0,
        "Seconds after SIGTERM in which uploads are still taken while /ready already says 503, so "
        "that whatever stands in front refuses none before its health check has noticed.",
    )
    drain_timeout_s: Seconds = _field(
        "Timeouts", 300.0, "Seconds that requests in flight may take to end after that."
    )

    log_level: Literal["debug", "info", "warning", "error"] = _field(
        "Seeing", "info", "What is logged."
    )
    log_format: Literal["text", "json"] = _field("Seeing", "text", "How it is logged.")
    access_log: bool = _field("Seeing", True, "Log a line for each finished upload.")
    log_stats: bool = _field("Seeing", False, "Print a table of the engines at an interval.")
    log_stats_interval: Seconds = _field("Seeing", 10.0, "Seconds between two such tables.")
    request_stats_window: Seconds = _field(
        "Seeing", 60.0, "Seconds over which the table's rates and percentiles are taken."
    )
    otel_endpoint: str | None = _field(
        "Seeing",
        None,
        "OTLP/HTTP collector to send traces to, such as http://localhost:4318; also read from "
        "OTEL_EXPORTER_OTLP_ENDPOINT. Needs the extra 'otel'.",
        "URL",
    )
    otel_sample_ratio: Annotated[float, Field(ge=0, le=1)] = _field(
        "Seeing", 1.0, "Part of requests to trace; a client's own decision goes before it."
    )

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if self.service_discovery == "static" and not self.static_backends:
            raise WrongSetting(
                "static_backends",
                "names no engine; give at least one URL, such as http://localhost:8000.",
            )
        if self.service_discovery == "file" and self.discovery_file is None:
            raise WrongSetting("discovery_file", "is needed with --service-discovery file.")
        if self.service_discovery == "dns" and not self.dns_name:
            raise WrongSetting("dns_name", "is needed with --service-discovery dns.")
        if self.service_discovery == "k8s" and not self.k8s_label_selector:
            raise WrongSetting("k8s_label_selector", "is needed with --service-discovery k8s.")
        for field in ("discovery_file", "api_key_file", "engine_ca_file"):
            path: Path | None = getattr(self, field)
            if path is not None and not path.is_file():
                raise WrongSetting(field, f"'{path}' is not a file that can be read.")
        if self.spool_dir is not None and not self.spool_dir.is_dir():
            raise WrongSetting("spool_dir", f"'{self.spool_dir}' is not a folder.")
        if self.otel_endpoint is not None and not _is_http_url(self.otel_endpoint):
            raise WrongSetting(
                "otel_endpoint",
                f"'{self.otel_endpoint}' is not a URL such as http://localhost:4318.",
            )
        if self.max_connections < self.workers:
            raise WrongSetting(
                "max_connections",
                f"leaves none to some of {self.workers} workers; give at least one for each.",
            )
        if self.routing_logic == "session" and not self.session_key:
            raise WrongSetting("session_key", "is needed with --routing-logic session.")
        return self
