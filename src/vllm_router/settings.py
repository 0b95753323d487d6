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

    host: str = _field("Server", "0.0.0.0", "Address to listen on.")  # noqa: S104
    port: int = _field(
        "Server", 8001, "Port to listen on. Engines usually listen on 8000.", ge=0, le=65535
    )
    root_path: str = _field(
        "Server", "", "Path prefix under which a reverse proxy exposes the router, such as /asr."
    )
    workers: int = _field(
        "Server",
        1,
        "Worker processes that share the port. One handles thousands of uploads per second.",
        ge=1,
        le=64,
    )

    service_discovery: Literal["static", "k8s", "file", "dns"] = _field(
        "Engines", "static", "Source of the engine list."
    )
    static_backends: Listed = _field("Engines", (), "Engine URLs, separated by commas.", "URL,URL")
    static_models: Listed = _field(
        "Engines",
        (),
        "Model of each engine, in the order of --static-backends. If unset, the router asks "
        "each engine at every probe.",
        "MODEL,MODEL",
    )
    static_model_types: Listed = _field(
        "Engines",
        (),
        "Model type of each engine. The router serves 'transcription'.",
        "TYPE,TYPE",
    )
    static_model_labels: Listed = _field(
        "Engines", (), "Label of each engine, shown in /engines.", "LABEL,LABEL"
    )
    static_aliases: Aliases = _field(
        "Engines",
        (),
        "Additional model names, such as whisper-1:openai/whisper-small.",
        "ALIAS:MODEL",
    )
    model_capabilities: ModelCapabilities = _field(
        "Engines",
        (),
        "Capabilities of a model's engines, instead of learning them: verbose_json and "
        "language (yes or no), max_audio_s, max_file_mb, containers. Example: "
        "voxtral:verbose_json=no,max_file_mb=25,containers=wav+mp3. See docs/words.md.",
        "MODEL:NAME=VALUE,NAME=VALUE",
    )
    static_backend_health_checks: bool = _field(
        "Engines",
        False,
        "Probe engines by transcribing 0.1 s of silence, which detects an engine that hangs. "
        "When off, probe with GET /health.",
    )
    static_backend_health_check_interval: Seconds = _field(
        "Engines", 10.0, "Seconds between probes of an engine."
    )
    static_backend_health_check_timeout_seconds: Seconds = _field(
        "Engines", 10.0, "Seconds after which a probe fails."
    )
    engine_stats_interval: Seconds = _field(
        "Engines",
        10.0,
        "Seconds between scrapes of an engine's /metrics. Busy engines are scraped every second.",
    )
    engine_api_key: SecretStr | None = _field(
        "Engines", None, "API key sent to engines. Also read from VLLM_API_KEY.", "KEY"
    )
    engine_ca_file: Path | None = _field(
        "Engines",
        None,
        "PEM file of certificate authorities to trust for https engines, in addition to the "
        "system's.",
        "FILE",
    )

    k8s_namespace: str | None = _field(
        "Kubernetes discovery", None, "Namespace of the engine pods. Defaults to the router's own."
    )
    k8s_label_selector: str = _field(
        "Kubernetes discovery",
        "",
        "Label selector for the engines' pods or services, such as app=whisper.",
        "SELECTOR",
    )
    k8s_port: str = _field(
        "Kubernetes discovery",
        "8000",
        "Engine port, as a number or a port name in the pod.",
        "PORT",
    )
    k8s_kubeconfig: str | None = _field(
        "Kubernetes discovery",
        None,
        "Kubeconfig file to use outside the cluster. Defaults to KUBECONFIG, then the service "
        "account, then ~/.kube/config.",
        "FILE",
    )
    k8s_context: str | None = _field(
        "Kubernetes discovery", None, "Kubeconfig context. Defaults to the current context.", "NAME"
    )
    k8s_service_discovery_type: Literal["pod-ip", "endpoint-slice"] = _field(
        "Kubernetes discovery", "pod-ip", "Watch pods, or the EndpointSlices of a service."
    )
    k8s_watcher_timeout_seconds: Seconds = _field(
        "Kubernetes discovery", 60.0, "Seconds without an event after which a watch is reopened."
    )
    discovery_file: Path | None = _field(
        "File and DNS discovery",
        None,
        "YAML list of engines for --service-discovery file. Edits take effect without a restart.",
        "FILE",
    )
    dns_name: Listed = _field(
        "File and DNS discovery",
        (),
        "Names to resolve for --service-discovery dns. A name that starts with _ is looked up "
        "as SRV.",
        "NAME,NAME",
    )
    dns_port: int = _field(
        "File and DNS discovery", 8000, "Engine port if no SRV record provides one.", ge=1, le=65535
    )
    dns_refresh_s: Seconds = _field(
        "File and DNS discovery", 10.0, "Seconds between lookups of --dns-name."
    )

    routing_logic: Literal[
        "least-loaded", "roundrobin", "least-requests", "two-choices", "session"
    ] = _field("Scheduling", "least-loaded", "Load balancing policy. See docs/balancing.md.")
    session_key: str | None = _field(
        "Scheduling",
        None,
        "Request header that identifies a session for --routing-logic session.",
        "HEADER",
    )
    engine_max_windows: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1, le=100_000)], BeforeValidator(_limit)
    ] = _field(
        "Scheduling",
        "auto",
        "Maximum 30 s windows in flight per engine. 'auto' learns the limit from the engine's "
        "throughput.",
        "N|auto",
    )
    max_queue_audio_s: AudioSeconds = _field(
        "Scheduling",
        360_000.0,
        "Maximum queued audio per model, in seconds. Further uploads get 429.",
    )
    max_queue_wait_s: Seconds = _field(
        "Scheduling",
        600.0,
        "Maximum expected wait in the queue, in seconds. Uploads that would wait longer get 429.",
    )
    hedge_after: Annotated[Literal["off", "auto"] | Seconds, Field(union_mode="left_to_right")] = (
        _field(
            "Scheduling",
            "off",
            "Send a short upload to a second engine as well if the first takes longer than this "
            "many seconds. 'auto' uses the fleet's 95th percentile.",
            "S|auto|off",
        )
    )
    max_attempts: int = _field(
        "Scheduling",
        3,
        "Maximum engines on which one upload may fail. Moving an upload away from an engine "
        "that hangs does not count.",
        ge=1,
        le=10,
    )
    engine_wait_s: Annotated[float, Field(ge=0, le=600)] = _field(
        "Scheduling",
        5.0,
        "Seconds that an upload waits when no engine is ready but one may recover soon.",
    )

    split: Literal["auto", "always", "off"] = _field(
        "Long audio",
        "auto",
        "Split long audio at pauses and spread it over all engines. 'always' splits anything "
        "longer than one window.",
    )
    split_longer_than_s: Seconds = _field(
        "Long audio", 30.0, "Audio longer than this many seconds is split with --split auto."
    )
    channels: Literal["mix", "left", "right", "each"] = _field(
        "Long audio",
        "mix",
        "Channels to transcribe if the request has no 'channels' field. 'each' suits calls "
        "with one speaker per channel.",
    )
    vad: Literal["silero", "level", "off"] = _field(
        "Long audio",
        "silero",
        "Voice activity detection for long audio: a neural network, loudness alone, or none.",
    )
    verify: bool = _field(
        "Long audio",
        True,
        "Check transcripts against the detected speech, and transcribe again where words are "
        "missing.",
    )
    skip_silence: bool = _field("Long audio", True, "Send only speech and short pauses to engines.")
    partial_ok: bool = _field(
        "Long audio",
        False,
        "If a segment fails permanently, return the rest and report the missing seconds.",
    )
    max_audio_s: AudioSeconds = _field(
        "Long audio",
        86_400.0,
        "Maximum length of an audio file, in seconds. Guards against files with false headers.",
    )
    decode_workers: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = _field(
        "Long audio",
        "auto",
        "Maximum number of processes that decode audio, per worker; they start on demand. "
        "'auto' is half of the CPUs, at least 2 and at most 16.",
    )
    stream_format: Literal["openai", "vllm"] = _field(
        "Output",
        "openai",
        "Event format of streamed responses. A request's X-Stream-Format header takes precedence.",
    )
    subtitle_max_line_chars: int = _field(
        "Output", 42, "Maximum characters per subtitle line.", ge=10, le=500
    )
    subtitle_max_lines: int = _field("Output", 2, "Maximum lines per subtitle cue.", ge=1, le=10)

    api_key: Keys = _field(
        "Access control",
        (),
        "API key that clients must present. Repeat the flag for several keys.",
        "KEY",
    )
    api_key_file: Path | None = _field(
        "Access control",
        None,
        "File with one key per line, as key or name:key. The name appears in metrics. "
        "Reloaded when it changes.",
        "FILE",
    )
    admin_key: SecretStr | None = _field(
        "Access control",
        None,
        "Key for the admin routes, which drain engines. Without it those routes are closed.",
        "KEY",
    )
    cors_origins: Origins = _field(
        "Access control",
        ("*",),
        "Origins whose pages may call the router from a browser, such as "
        "https://app.example.org. '*' allows all, an empty value none.",
        "ORIGIN,ORIGIN",
    )
    key_max_audio_s: AudioSeconds | None = _field(
        "Access control", None, "Maximum audio in flight per key, in seconds."
    )
    key_audio_s_per_minute: AudioSeconds | None = _field(
        "Access control", None, "Maximum audio per key and minute, in seconds."
    )

    max_upload_mb: Mib = _field(
        "Uploads",
        10_240.0,
        "Maximum upload size in MiB. Ten hours of CD-quality WAV take about 6,000.",
    )
    spool_dir: Path | None = _field(
        "Uploads",
        None,
        "Directory for uploads that exceed the memory limit. Defaults to the system's "
        "temporary directory.",
        "DIR",
    )
    spool_memory_mb: Literal["auto"] | Annotated[Mib, Field(ge=1)] = _field(
        "Uploads",
        "auto",
        "Memory for all uploads together, in MiB. 'auto' is 1/32 of the machine's or "
        "container's memory, from 64 to 1024.",
        "MIB",
    )
    spool_max_mb: Mib = _field("Uploads", 102_400.0, "Disk space for all uploads together, in MiB.")
    max_connections: int = _field(
        "Connections",
        20_000,
        "Maximum client connections, over all workers. Further connections are refused.",
        ge=1,
        le=1_000_000,
    )
    client_head_timeout_s: Seconds = _field(
        "Connections", 15.0, "Seconds that a client may take to send its request head."
    )
    client_body_timeout_s: Seconds = _field(
        "Connections", 60.0, "Seconds that a client may pause while it sends a body."
    )
    client_idle_timeout_s: Seconds = _field(
        "Connections", 75.0, "Seconds after which an idle connection is closed."
    )
    connect_timeout_s: Seconds = _field("Engine timeouts", 5.0, "Seconds to connect to an engine.")
    read_timeout_s: Seconds = _field(
        "Engine timeouts",
        120.0,
        "Seconds to wait for an engine's response, or twice the audio's length if that is longer.",
    )
    write_timeout_s: Seconds = _field(
        "Engine timeouts", 60.0, "Seconds that an engine may go without reading more of an upload."
    )
    shutdown_grace_s: Annotated[float, Field(ge=0, le=86400)] = _field(
        "Shutdown",
        0.0,
        "Seconds after SIGTERM during which uploads are still accepted while /ready returns "
        "503. Gives load balancers time to notice.",
    )
    drain_timeout_s: Seconds = _field(
        "Shutdown", 300.0, "Seconds after the grace period for requests in flight to finish."
    )

    log_level: Literal["debug", "info", "warning", "error"] = _field(
        "Observability", "info", "Minimum level of log messages."
    )
    log_format: Literal["text", "json"] = _field("Observability", "text", "Format of log messages.")
    access_log: bool = _field("Observability", True, "Log one line for each finished upload.")
    log_stats: bool = _field("Observability", False, "Print a table of the engines periodically.")
    log_stats_interval: Seconds = _field("Observability", 10.0, "Seconds between tables.")
    request_stats_window: Seconds = _field(
        "Observability", 60.0, "Seconds over which the table's rates and percentiles are computed."
    )
    otel_endpoint: str | None = _field(
        "Observability",
        None,
        "OTLP/HTTP collector for traces, such as http://localhost:4318. Also read from "
        "OTEL_EXPORTER_OTLP_ENDPOINT. Requires the 'otel' extra.",
        "URL",
    )
    otel_sample_ratio: Annotated[float, Field(ge=0, le=1)] = _field(
        "Observability",
        1.0,
        "Fraction of requests to trace. A client's sampling decision takes precedence.",
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
