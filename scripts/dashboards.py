"""Write the chart's Grafana dashboards, or check that they are up to date.

    scripts/dashboards.py            write helm/dashboards/*.json
    scripts/dashboards.py --check    fail if they differ

Here stands what each panel asks and why; the JSON is too long to be kept by hand.
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
            "Engines that take work now.",
            thresholds=steps((None, "red"), (1, "green")),
        ),
        stat(
            "Engines out",
            out_of("discovered|probing|ejected"),
            "Engines that are known but take no work, because their probes or their answers fail "
            "or they have not been heard of yet.",
            thresholds=good_below(1, 3),
        ),
        stat(
            "RTFx",
            rate(audio),
            "Seconds of audio that the fleet does in a second.",
            decimals=0,
        ),
        stat("Requests", rate("vllm_router_requests_total"), "Answered in a second.", "reqps"),
        stat(
            "Errors",
            f"{errors} / ({rate('vllm_router_requests_total')} > 0)",
            "Share of requests answered 5xx; a dash while there are none at all.",
            "percentunit",
            good_below(0.005, 0.02),
            decimals=2,
        ),
        stat(
            "p95 up to 30 s",
            quantile(0.95, "vllm_router_request_seconds", labels=short),
            "From a request's head to its answer's end, for audio up to 30 s; uploading included.",
            "s",
            good_below(3, 10),
        ),
        stat(
            "First in line waits",
            now("vllm_router_queue_oldest_wait_seconds", how="max"),
            "How long whoever has waited longest has waited, long audio included.",
            "s",
            good_below(30, 120),
        ),
        stat(
            "Spool",
            f"max(sum by (instance) (vllm_router_spool_bytes{{{disk}}}) "
            f"/ sum by (instance) (vllm_router_spool_capacity_bytes{{{disk}}}))",
            "How full the fullest router's spool is on disk. When it is full, uploads get 503.",
            "percentunit",
            good_below(0.6, 0.8),
            decimals=0,
        ),
        row("Traffic"),
        graph(
            "Requests by status",
            {"{{status}}": rate("vllm_router_requests_total", "status")},
            "499: the client left. 429: the queue or the key's share is full. 502 and 504: three "
            "engines failed, or were too slow. 503: no engine, no spool, or shutting down.",
            "reqps",
            stacked=True,
            by_status=True,
        ),
        graph(
            "Audio by model",
            {"{{model}}": rate("vllm_router_audio_seconds_total", "model")},
            "Seconds of audio in a second, counted at a request's end: an hour of audio is a peak.",
            stacked=True,
        ),
        graph(
            "Work waiting",
            {"{{model}} {{urgency}}": now("vllm_router_queue_audio_seconds", "model, urgency")},
            "Seconds of audio in the queue. Divided by the fleet's RTFx: the seconds it takes to "
            "work it off. Grows for long: add engines.",
            "s",
            stacked=True,
        ),
        row("Latency"),
        graph(
            "Request time, p95 by length",
            {"{{length}}": quantile(0.95, "vllm_router_request_seconds", "length")},
            "From a request's head to its answer's end, by the least bound that holds the audio. "
            "Successful requests only; a slow client's uploading is included.",
            "s",
            least_max=1,
        ),
        graph(
            "Request time, median by length",
            {"{{length}}": quantile(0.5, "vllm_router_request_seconds", "length")},
            "As p95; if only that is high, look at single engines.",
            "s",
            least_max=1,
        ),
        graph(
            "Time to the first byte",
            {
                f"p{q * 100:.0f}": quantile(q, "vllm_router_first_byte_seconds")
                for q in (0.5, 0.95, 0.99)
            },
            "From an upload's last byte to the answer's first; for a stream, its first event.",
            "s",
            least_max=1,
        ),
        graph(
            "Wait for an engine, short uploads",
            {
                f"p{q * 100:.0f}": quantile(
                    q, "vllm_router_queue_wait_seconds", labels=FLEET + ', urgency="short"'
                )
                for q in (0.5, 0.95, 0.99)
            },
            "Short uploads go first: if they wait, all engines are full with short uploads or "
            "too slow.",
            "s",
            thresholds=steps((None, "transparent"), (5, "red")),
            least_max=1,
        ),
        graph(
            "Wait for an engine, pieces of long audio",
            {
                f"p{q * 100:.0f}": quantile(
                    q, "vllm_router_queue_wait_seconds", labels=FLEET + ', urgency="long"'
                )
                for q in (0.5, 0.95, 0.99)
            },
            "Long audio takes what short uploads leave, and waits by design.",
            "s",
            least_max=1,
        ),
        graph(
            "Seconds per second of audio",
            {
                "median {{model}}": quantile(0.5, "vllm_router_seconds_per_audio_second", "model"),
                "p95 {{model}}": quantile(0.95, "vllm_router_seconds_per_audio_second", "model"),
            },
            "A request's seconds after its upload came whole, for each second of its audio. "
            "0.01 is a hundred times real time.",
            "none",
        ),
        row("Engines"),
        timeline(
            "State of each engine",
            "{{engine}}",
            state_query(FLEET),
            "Where routers disagree, the worst is shown. Click for the engine's own dashboard.",
        ),
        graph(
            "RTFx by engine",
            {"{{engine}}": rate(audio, "engine")},
            "Seconds of audio done in a second.",
            stacked=True,
            by_engine=True,
        ),
        graph(
            "How full engines are",
            {
                "{{engine}}": now("vllm_router_windows_in_flight", "engine")
                + " / "
                + now("vllm_router_engine_limit_windows", "engine")
            },
            "Windows of 30 s in flight, as a share of what the engine may work on at a time. All "
            "at 100 %: the queue fills. Unequal: look at --routing-logic and the engines' speeds.",
            "percentunit",
            least_max=1,
            by_engine=True,
        ),
        graph(
            "Probes, p95",
            {"{{engine}}": quantile(0.95, "vllm_router_probe_seconds", "engine")},
            "Slow on a busy engine; slow on an idle one: that machine is in trouble.",
            "s",
            least_max=0.5,
            by_engine=True,
        ),
        row("Trouble"),
        graph(
            "Failed attempts",
            {
                "{{outcome}}": rate(
                    "vllm_router_attempts_total",
                    "outcome",
                    FLEET + ', outcome!~"ok|client_fault|client_left|cancelled"',
                )
            },
            "Attempts on engines that failed. Clients see none of them as long as another engine "
            "takes over.",
            "ops",
            width=6,
            stacked=True,
        ),
        graph(
            "Second attempts",
            {
                "repeated": rate("vllm_router_retries_total"),
                "hedged, {{winner}} won": rate("vllm_router_hedges_total", "winner"),
            },
            "Repeated: after a failure. Hedged: sent to a second engine because the first was slow "
            "(--hedge-after).",
            "ops",
            width=6,
        ),
        graph(
            "Engines taken out",
            {
                "{{engine}}": "sum by (engine) (increase(vllm_router_ejections_total"
                f"{{{FLEET}}}{RATE}))"
            },
            "Each time that an engine's answers or probes failed three times in a row, or it "
            "became far too slow.",
            width=6,
            by_engine=True,
        ),
        graph(
            "Pieces of long audio",
            {"{{outcome}}": rate("vllm_router_pieces_total", "outcome")},
            "Missing: could not be had from any engine, and left out (--partial-ok).",
            "ops",
            width=6,
            stacked=True,
        ),
        graph(
            "Audio asked for again",
            {
                "{{reason}}": "sum by (reason) (rate(vllm_router_reheard_seconds_total"
                f"{{{FLEET}}}{RATE}))"
            },
            "Seconds of audio in a second whose first answer was implausible for the speech in it. "
            "A rise means that an engine or a model loses words.",
            width=6,
            stacked=True,
        ),
        row("Routers"),
        graph(
            "CPU",
            {
                "{{instance}}": rate("process_cpu_seconds_total", "instance"),
            },
            "Cores in use. One worker answers on one core; near 1 it needs --workers or another "
            "router. Decoding of long audio is done in processes that are not counted here.",
            width=6,
            least_max=1,
        ),
        graph(
            "Event loop lag, p99",
            {"{{instance}}": quantile(0.99, "vllm_router_event_loop_lag_seconds", "instance")},
            "How much later than asked a timer ran. Above 0.1 s the router or its machine is "
            "overloaded, and every request is late by that.",
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
            "Clients connected, and uploads that are coming, waiting or being answered.",
            width=6,
        ),
        graph(
            "Spool",
            {
                "{{instance}} {{where}}": "sum by (instance, where) (vllm_router_spool_bytes"
                f"{{{FLEET}}}) / sum by (instance, where) (vllm_router_spool_capacity_bytes"
                f"{{{FLEET}}})"
            },
            "Share in use. Memory may be full: further uploads go to disk. A full disk refuses.",
            "percentunit",
            width=6,
            thresholds=steps((None, "transparent"), (0.8, "red")),
            least_max=1,
        ),
        graph(
            "Uploads",
            {"{{instance}}": rate("vllm_router_upload_bytes_total", "instance")},
            "Bytes received in a second.",
            "Bps",
            width=6,
            stacked=True,
        ),
        graph(
            "Age of the list of engines",
            {
                "{{instance}} {{source}}": now(
                    "vllm_router_discovery_last_sync_age_seconds", "instance, source", how="max"
                )
            },
            "Grows while the source of engines (API server, DNS, file) cannot be read; the last "
            "known engines stay.",
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
            "Seconds of audio sent in a second, by the names of the ten keys that send most. Empty "
            "without keys.",
            width=6,
        ),
        graph(
            "Background failures",
            {
                "{{instance}} {{loop}}": "topk(5, sum by (instance, loop) (increase("
                f"vllm_router_loop_failures_total{{{FLEET}}}{RATE})))"
            },
            "Failures of what runs beside answering, for the five loops with the most; each is "
            "logged and waited out, and the loop goes on. None is expected.",
            width=6,
        ),
    ]
    return dashboard(
        "vllm-router-fleet",
        "Whisper router: fleet",
        "Is the fleet well, what does it do, and if not, where to look.",
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
            "As the routers see it; where they disagree, the worst.",
            mappings=state_mappings(),
        ),
        stat("RTFx", rate(audio, labels=ENGINE), "Seconds of audio done in a second.", decimals=0),
        stat(
            "RTFx in full windows",
            f"30 * {rate(windows, labels=ENGINE)}",
            "As if each window were full: does not depend on how short the audio is, so it is the "
            "one to compare over time and with other engines.",
            decimals=0,
        ),
        stat(
            "Share of the fleet's work",
            f"{rate(windows, labels=ENGINE)} / ({rate(windows)} > 0)",
            "Of the windows of 30 s that the fleet does.",
            "percentunit",
            decimals=1,
        ),
        stat(
            "How full",
            now("vllm_router_windows_in_flight", labels=ENGINE)
            + " / "
            + now("vllm_router_engine_limit_windows", labels=ENGINE),
            "Windows in flight, as a share of what it may work on at a time.",
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
            "Share of the attempts on it that failed by its fault.",
            "percentunit",
            good_below(0.01, 0.05),
            decimals=2,
        ),
        stat(
            "Probes, p95",
            quantile(0.95, "vllm_router_probe_seconds", labels=ENGINE),
            "Time that probes took.",
            "s",
            good_below(2, 10),
        ),
        stat(
            "Taken out",
            f"max(increase(vllm_router_ejections_total{{{ENGINE}}}[$__range]))",
            "Times in the range shown, as the router saw it that saw most.",
            thresholds=good_below(1, 3),
            decimals=0,
        ),
        timeline(
            "State",
            "{{instance}}",
            f"max by (engine, instance) ({state_query(ENGINE).removeprefix('max by (engine) ')})",
            "As each router sees it: one that disagrees cannot reach the engine.",
            height=5,
        ),
        graph(
            "RTFx in full windows",
            {
                "this engine": f"30 * {rate(windows, labels=ENGINE)}",
                "engines on average": f"30 * avg({rate(windows, 'engine')})",
            },
            "Far below the average at the same load: slow GPU, throttling, a neighbour on it.",
        ),
        graph(
            "Windows in flight",
            {
                "in flight": now("vllm_router_windows_in_flight", labels=ENGINE),
                "limit": now("vllm_router_engine_limit_windows", labels=ENGINE),
            },
            "What it works on, and what it may work on at a time; the limit follows its answers.",
        ),
        graph(
            "Sequences, as the engine says",
            {
                "running": now("vllm_router_engine_running", labels=ENGINE, how="max"),
                "waiting": now("vllm_router_engine_waiting", labels=ENGINE, how="max"),
            },
            "Work of other clients and routers included. Waiting above 0 for long: its limit is "
            "too high, or somebody goes past the routers.",
        ),
        graph(
            "Attempts by outcome",
            {"{{outcome}}": rate("vllm_router_attempts_total", "outcome", ENGINE) + " > 0"},
            "How uploads and pieces given to it ended. client_fault: it refused the upload (4xx).",
            "ops",
            stacked=True,
        ),
        graph(
            "Audio in flight by router",
            {"{{instance}}": now("vllm_router_audio_seconds_in_flight", "instance", labels=ENGINE)},
            "Seconds of audio that each router has there.",
            "s",
            stacked=True,
        ),
        graph(
            "Probes",
            {
                f"p{q * 100:.0f}": quantile(q, "vllm_router_probe_seconds", labels=ENGINE)
                for q in (0.5, 0.95)
            },
            "Time that probes took; failed ones included.",
            "s",
            least_max=0.5,
        ),
        graph(
            "KV cache",
            {"in use": now("vllm_router_engine_cache_usage", labels=ENGINE, how="max")},
            "Whisper needs little of it: rarely what limits an engine.",
            "percentunit",
            least_max=1,
        ),
        graph(
            "RTFx",
            {"this engine": rate(audio, labels=ENGINE)},
            "Seconds of audio done in a second; low with short audio.",
        ),
        graph(
            "Taken out",
            {
                "{{instance}}": "sum by (instance) (increase(vllm_router_ejections_total"
                f"{{{ENGINE}}}{RATE}))"
            },
            "By the router that did it. The router's log says why each time.",
        ),
    ]
    engine = 'label_values(vllm_router_engine_state{namespace=~"$namespace", job=~"$job"}, engine)'
    return dashboard(
        "vllm-router-engine",
        "Whisper router: one engine",
        "What one engine does and how it fares, as the routers see it.",
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
