"""Write the chart's Grafana dashboards, or check that they are up to date.

    scripts/dashboards.py            write helm/dashboards/*.json
    scripts/dashboards.py --check    fail if they differ

Defines each panel's query and description; the JSON is too long to maintain by hand.
"""

import json
import sys
from pathlib import Path

from grafana import (
    ENGINE,
    FLEET,
    RATE,
    Json,
    dashboard,
    good_below,
    graph,
    now,
    quantile,
    rate,
    row,
    stat,
    state_mappings,
    state_query,
    steps,
    timeline,
    variable,
)

FOLDER = Path(__file__).parent.parent / "helm" / "dashboards"


def out_of(state: str) -> str:
    """Return a query for how many engines are in a state; routers that disagree count the worst."""
    labels = f'{FLEET}, state=~"{state}"'
    return f"count({now('vllm_router_engine_state', 'engine', labels, 'max')} == 1) or vector(0)"


def fleet() -> Json:
    """Return the dashboard of the whole fleet."""
    errors = rate("vllm_router_requests_total", labels=FLEET + ', status=~"5.."')
    audio = "vllm_router_engine_audio_seconds_total"
    short = FLEET + ', length="30s"'
    disk = FLEET + ', where="disk"'
    panels = [
        stat(
            "Engines ready",
            out_of("ready"),
            "Engines that accept work.",
            thresholds=steps((None, "red"), (1, "green")),
        ),
        stat(
            "Engines out",
            out_of("discovered|probing|ejected"),
            "Known engines that take no work because their probes or responses fail, or because "
            "no probe has succeeded yet.",
            thresholds=good_below(1, 3),
        ),
        stat(
            "RTFx",
            rate(audio),
            "Seconds of audio that the fleet processes per second.",
            decimals=0,
        ),
        stat(
            "Requests", rate("vllm_router_requests_total"), "Requests answered per second.", "reqps"
        ),
        stat(
            "Errors",
            f"{errors} / ({rate('vllm_router_requests_total')} > 0)",
            "Share of requests answered with 5xx. Shows a dash if there are no requests.",
            "percentunit",
            good_below(0.005, 0.02),
            decimals=2,
        ),
        stat(
            "p95 up to 30 s",
            quantile(0.95, "vllm_router_request_seconds", labels=short),
            "Time from the request head to the end of the response, for audio up to 30 s. "
            "Includes the upload.",
            "s",
            good_below(3, 10),
        ),
        stat(
            "Oldest wait in the queue",
            now("vllm_router_queue_oldest_wait_seconds", how="max"),
            "Longest current wait in the queue, long audio included.",
            "s",
            good_below(30, 120),
        ),
        stat(
            "Spool",
            f"max(sum by (instance) (vllm_router_spool_bytes{{{disk}}}) "
            f"/ sum by (instance) (vllm_router_spool_capacity_bytes{{{disk}}}))",
            "Disk usage of the fullest router's spool. When it is full, uploads get 503.",
            "percentunit",
            good_below(0.6, 0.8),
            decimals=0,
        ),
        row("Traffic"),
        graph(
            "Requests by status",
            {"{{status}}": rate("vllm_router_requests_total", "status")},
            "499: the client disconnected. 429: the queue or the key's quota is full. 502 and "
            "504: three engines failed or timed out. 503: no engine, no spool space, or shutting "
            "down.",
            "reqps",
            stacked=True,
            by_status=True,
        ),
        graph(
            "Audio by model",
            {"{{model}}": rate("vllm_router_audio_seconds_total", "model")},
            "Seconds of audio per second, counted when a request ends. An hour of audio appears "
            "as a peak.",
            stacked=True,
        ),
        graph(
            "Queued audio",
            {"{{model}} {{urgency}}": now("vllm_router_queue_audio_seconds", "model, urgency")},
            "Seconds of audio in the queue. Divide by the fleet's RTFx to estimate the time to "
            "drain it. If it keeps growing, add engines.",
            "s",
            stacked=True,
        ),
        row("Latency"),
        graph(
            "Request time, p95 by length",
            {"{{length}}": quantile(0.95, "vllm_router_request_seconds", "length")},
            "Time from the request head to the end of the response, by audio length (upper "
            "bound). Successful requests only. Includes slow uploads.",
            "s",
            least_max=1,
        ),
        graph(
            "Request time, median by length",
            {"{{length}}": quantile(0.5, "vllm_router_request_seconds", "length")},
            "If only the p95 is high and the median is not, check individual engines.",
            "s",
            least_max=1,
        ),
        graph(
            "Time to the first byte",
            {
                f"p{q * 100:.0f}": quantile(q, "vllm_router_first_byte_seconds")
                for q in (0.5, 0.95, 0.99)
            },
            "Time from the last byte of an upload to the first byte of the response, or to the "
            "first event of a stream.",
            "s",
            least_max=1,
        ),
        graph(
            "Queue wait, short uploads",
            {
                f"p{q * 100:.0f}": quantile(
                    q, "vllm_router_queue_wait_seconds", labels=FLEET + ', urgency="short"'
                )
                for q in (0.5, 0.95, 0.99)
            },
            "Short uploads go first. If they wait, all engines are full of short uploads or too "
            "slow.",
            "s",
            thresholds=steps((None, "transparent"), (5, "red")),
            least_max=1,
        ),
        graph(
            "Queue wait, segments of long audio",
            {
                f"p{q * 100:.0f}": quantile(
                    q, "vllm_router_queue_wait_seconds", labels=FLEET + ', urgency="long"'
                )
                for q in (0.5, 0.95, 0.99)
            },
            "Long audio uses the capacity that short uploads leave, and waits by design.",
            "s",
            least_max=1,
        ),
        graph(
            "Latency per second of audio",
            {
                "median {{model}}": quantile(0.5, "vllm_router_seconds_per_audio_second", "model"),
                "p95 {{model}}": quantile(0.95, "vllm_router_seconds_per_audio_second", "model"),
            },
            "Time from the end of an upload to the end of its response, per second of audio. 0.01 "
            "is a hundred times faster than real time.",
            "none",
        ),
        row("Engines"),
        timeline(
            "State of each engine",
            "{{engine}}",
            state_query(FLEET),
            "If routers disagree, the worst state is shown. Click to open the engine's dashboard.",
        ),
        graph(
            "RTFx by engine",
            {"{{engine}}": rate(audio, "engine")},
            "Seconds of audio processed per second.",
            stacked=True,
            by_engine=True,
        ),
        graph(
            "Engine utilization",
            {
                "{{engine}}": now("vllm_router_windows_in_flight", "engine")
                + " / "
                + now("vllm_router_engine_limit_windows", "engine")
            },
            "30 s windows in flight as a share of the engine's limit. All at 100 %: the queue "
            "grows. Uneven: check --routing-logic and the engines' speeds.",
            "percentunit",
            least_max=1,
            by_engine=True,
        ),
        graph(
            "Probes, p95",
            {"{{engine}}": quantile(0.95, "vllm_router_probe_seconds", "engine")},
            "Probes are slow on a busy engine. A slow probe of an idle engine indicates a problem "
            "with its host.",
            "s",
            least_max=0.5,
            by_engine=True,
        ),
        row("Failures"),
        graph(
            "Failed attempts",
            {
                "{{outcome}}": rate(
                    "vllm_router_attempts_total",
                    "outcome",
                    FLEET + ', outcome!~"ok|client_fault|client_left|cancelled"',
                )
            },
            "Attempts that an engine failed. Clients do not notice them while another engine "
            "takes over.",
            "ops",
            width=6,
            stacked=True,
        ),
        graph(
            "Retries and hedges",
            {
                "retried": rate("vllm_router_retries_total"),
                "hedged, {{winner}} won": rate("vllm_router_hedges_total", "winner"),
            },
            "Retried: after a failure. Hedged: sent to a second engine because the first was slow "
            "(--hedge-after).",
            "ops",
            width=6,
        ),
        graph(
            "Ejections",
            {
                "{{engine}}": "sum by (engine) (increase(vllm_router_ejections_total"
                f"{{{FLEET}}}{RATE}))"
            },
            "An engine is ejected when its responses or probes fail three times in a row, or when "
            "it becomes far too slow.",
            width=6,
            by_engine=True,
        ),
        graph(
            "Segments of long audio",
            {"{{outcome}}": rate("vllm_router_pieces_total", "outcome")},
            "Missing: no engine could transcribe the segment, and it was left out (--partial-ok).",
            "ops",
            width=6,
            stacked=True,
        ),
        graph(
            "Audio transcribed again",
            {
                "{{reason}}": "sum by (reason) (rate(vllm_router_reheard_seconds_total"
                f"{{{FLEET}}}{RATE}))"
            },
            "Seconds of audio per second whose first transcript was implausible for its speech. A "
            "rise means that an engine or a model loses words.",
            width=6,
            stacked=True,
        ),
        row("Routers"),
        graph(
            "CPU",
            {
                "{{instance}}": rate("process_cpu_seconds_total", "instance"),
            },
            "Cores in use. One worker uses at most one core; near 1, add --workers or another "
            "router. Decoder processes are not included.",
            width=6,
            least_max=1,
        ),
        graph(
            "Event loop lag, p99",
            {"{{instance}}": quantile(0.99, "vllm_router_event_loop_lag_seconds", "instance")},
            "Delay of timers in the event loop. Above 0.1 s the router or its machine is "
            "overloaded, and every request is delayed by that time.",
            "s",
            width=6,
            thresholds=steps((None, "transparent"), (0.1, "red")),
            least_max=0.1,
        ),
        graph(
            "Memory",
            {"{{instance}}": now("process_resident_memory_bytes", "instance")},
            "Bounded by --spool-memory-mb and the number of connections.",
            "bytes",
            width=6,
        ),
        graph(
            "Connections and uploads",
            {
                "connections": now("vllm_router_connections"),
                "uploads held": now("vllm_router_open_uploads"),
            },
            "Client connections, and uploads that are arriving, waiting or being answered.",
            width=6,
        ),
        graph(
            "Spool",
            {
                "{{instance}} {{where}}": "sum by (instance, where) (vllm_router_spool_bytes"
                f"{{{FLEET}}}) / sum by (instance, where) (vllm_router_spool_capacity_bytes"
                f"{{{FLEET}}})"
            },
            "Share of the spool in use. When memory is full, uploads go to disk. When the disk is "
            "full, uploads are refused.",
            "percentunit",
            width=6,
            thresholds=steps((None, "transparent"), (0.8, "red")),
            least_max=1,
        ),
        graph(
            "Uploads",
            {"{{instance}}": rate("vllm_router_upload_bytes_total", "instance")},
            "Bytes received per second.",
            "Bps",
            width=6,
            stacked=True,
        ),
        graph(
            "Engine list age",
            {
                "{{instance}} {{source}}": now(
                    "vllm_router_discovery_last_sync_age_seconds", "instance, source", how="max"
                )
            },
            "Grows while the discovery source (API server, DNS, file) cannot be read. The last "
            "known engines remain in use.",
            "s",
            width=6,
            thresholds=steps((None, "transparent"), (300, "red")),
            least_max=60,
        ),
        graph(
            "Audio by key",
            {
                "{{key}}": "topk(10, sum by (key) (rate("
                f"vllm_router_key_audio_seconds_total{{{FLEET}}}{RATE})))"
            },
            "Seconds of audio per second for the ten keys that send most. Empty without API keys.",
            width=6,
        ),
        graph(
            "Background loop failures",
            {
                "{{instance}} {{loop}}": "topk(5, sum by (instance, loop) (increase("
                f"vllm_router_loop_failures_total{{{FLEET}}}{RATE})))"
            },
            "Failures of background loops, for the five loops with the most. Each failure is "
            "logged and the loop resumes after a delay. None are expected.",
            width=6,
        ),
    ]
    return dashboard(
        "vllm-router-fleet",
        "Whisper router: fleet",
        "Health and throughput of the fleet, and where to look when something fails.",
        [],
        panels,
    )


def one_engine() -> Json:
    """Return the dashboard of one engine."""
    audio = "vllm_router_engine_audio_seconds_total"
    windows = "vllm_router_engine_windows_total"
    panels = [
        stat(
            "State",
            state_query(ENGINE),
            "State as seen by the routers. If they disagree, the worst is shown.",
            mappings=state_mappings(),
        ),
        stat(
            "RTFx", rate(audio, labels=ENGINE), "Seconds of audio processed per second.", decimals=0
        ),
        stat(
            "RTFx in full windows",
            f"30 * {rate(windows, labels=ENGINE)}",
            "RTFx as if every window were full. Independent of audio length, so it can be "
            "compared over time and between engines.",
            decimals=0,
        ),
        stat(
            "Share of fleet work",
            f"{rate(windows, labels=ENGINE)} / ({rate(windows)} > 0)",
            "Share of the 30 s windows that the fleet processes.",
            "percentunit",
            decimals=1,
        ),
        stat(
            "Utilization",
            now("vllm_router_windows_in_flight", labels=ENGINE)
            + " / "
            + now("vllm_router_engine_limit_windows", labels=ENGINE),
            "Windows in flight as a share of the engine's limit.",
            "percentunit",
            decimals=0,
        ),
        stat(
            "Failed attempts",
            rate(
                "vllm_router_attempts_total",
                labels=ENGINE + ', outcome!~"ok|client_fault|client_left|cancelled"',
            )
            + f" / ({rate('vllm_router_attempts_total', labels=ENGINE)} > 0)",
            "Share of attempts that the engine failed.",
            "percentunit",
            good_below(0.01, 0.05),
            decimals=2,
        ),
        stat(
            "Probes, p95",
            quantile(0.95, "vllm_router_probe_seconds", labels=ENGINE),
            "Duration of the engine's probes.",
            "s",
            good_below(2, 10),
        ),
        stat(
            "Ejections",
            f"max(increase(vllm_router_ejections_total{{{ENGINE}}}[$__range]))",
            "Ejections in the selected time range, from the router that counted most.",
            thresholds=good_below(1, 3),
            decimals=0,
        ),
        timeline(
            "State",
            "{{instance}}",
            f"max by (engine, instance) ({state_query(ENGINE).removeprefix('max by (engine) ')})",
            "State as seen by each router. A router that disagrees cannot reach the engine.",
            height=5,
        ),
        graph(
            "RTFx in full windows",
            {
                "this engine": f"30 * {rate(windows, labels=ENGINE)}",
                "engines on average": f"30 * avg({rate(windows, 'engine')})",
            },
            "Far below the average at the same load: a slow GPU, throttling, or another tenant on "
            "the host.",
        ),
        graph(
            "Windows in flight",
            {
                "in flight": now("vllm_router_windows_in_flight", labels=ENGINE),
                "limit": now("vllm_router_engine_limit_windows", labels=ENGINE),
            },
            "Windows in flight and their limit. The limit adapts to the engine's responses.",
        ),
        graph(
            "Sequences reported by the engine",
            {
                "running": now("vllm_router_engine_running", labels=ENGINE, how="max"),
                "waiting": now("vllm_router_engine_waiting", labels=ENGINE, how="max"),
            },
            "Includes work from other clients and routers. Waiting above 0 for long: the limit is "
            "too high, or a client bypasses the routers.",
        ),
        graph(
            "Attempts by outcome",
            {"{{outcome}}": rate("vllm_router_attempts_total", "outcome", ENGINE) + " > 0"},
            "Outcomes of uploads and segments sent to the engine. client_fault: the engine "
            "refused the upload (4xx).",
            "ops",
            stacked=True,
        ),
        graph(
            "Audio in flight by router",
            {"{{instance}}": now("vllm_router_audio_seconds_in_flight", "instance", labels=ENGINE)},
            "Seconds of audio that each router has in flight on the engine.",
            "s",
            stacked=True,
        ),
        graph(
            "Probes",
            {
                f"p{q * 100:.0f}": quantile(q, "vllm_router_probe_seconds", labels=ENGINE)
                for q in (0.5, 0.95)
            },
            "Duration of probes, failed ones included.",
            "s",
            least_max=0.5,
        ),
        graph(
            "KV cache",
            {"in use": now("vllm_router_engine_cache_usage", labels=ENGINE, how="max")},
            "Whisper needs little KV cache, so it is rarely the bottleneck.",
            "percentunit",
            least_max=1,
        ),
        graph(
            "RTFx",
            {"this engine": rate(audio, labels=ENGINE)},
            "Seconds of audio processed per second. Low for short audio.",
        ),
        graph(
            "Ejections",
            {
                "{{instance}}": "sum by (instance) (increase(vllm_router_ejections_total"
                f"{{{ENGINE}}}{RATE}))"
            },
            "Ejections by router. The router's log gives the reason for each.",
        ),
    ]
    engine = 'label_values(vllm_router_engine_state{namespace=~"$namespace", job=~"$job"}, engine)'
    return dashboard(
        "vllm-router-engine",
        "Whisper router: one engine",
        "One engine's work and health as seen by the routers.",
        [variable("engine", "Engine", engine)],
        panels,
    )


def main() -> int:
    """Write or check; 1 if a dashboard is out of date."""
    stale = []
    for name, made in {"fleet": fleet(), "engine": one_engine()}.items():
        path = FOLDER / f"{name}.json"
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        if "--check" in sys.argv:
            stale.append(path)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for path in stale:
        print(f"{path.name} is out of date: run scripts/dashboards.py")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
