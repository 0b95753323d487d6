"""The parts that the router's Grafana dashboards are made of: queries, panels, variables.

Plain functions to Grafana's JSON (schema 39). What is asked and shown is the business of
`dashboards.py`.
"""

from typing import Any

Json = dict[str, Any]

#: One fleet: the routers of one release. Without Kubernetes there is no namespace.
FLEET = 'namespace=~"$namespace", job=~"$job"'
ENGINE = FLEET + ', engine="$engine"'
RATE = "[$__rate_interval]"
#: In the order of how bad it is: where routers disagree, the worst is shown.
STATES = {
    "ready": (1, "green"),
    "sleeping": (2, "blue"),
    "draining": (3, "purple"),
    "discovered": (4, "yellow"),
    "probing": (5, "orange"),
    "ejected": (6, "red"),
}
#: In the palette's words; Grafana has a shade of each for dark and light.
STATUS_COLOURS = {"^2": "green", "^4": "yellow", "^5": "red"}
ENGINE_LINK = {
    "title": "This engine",
    "url": "/d/vllm-router-engine?${__url_time_range}&var-namespace=$namespace&var-job=$job"
    "&var-engine=${__field.labels.engine}",
}


def state_query(labels: str) -> str:
    """Return a query for the number of each engine's state."""
    parts = [
        f'vllm_router_engine_state{{{labels}, state="{state}"}} * {number}'
        for state, (number, _) in STATES.items()
    ]
    return f"max by (engine) ({' + ignoring(state) '.join(parts)})"


def quantile(q: float, metric: str, by: str = "", labels: str = FLEET) -> str:
    """Return a query for a quantile of a histogram."""
    groups = f"{by}, le" if by else "le"
    inner = f"sum by ({groups}) (rate({metric}_bucket{{{labels}}}{RATE}))"
    return f"histogram_quantile({q:g}, {inner})"


def rate(metric: str, by: str = "", labels: str = FLEET) -> str:
    """Return a query for a counter's rate."""
    groups = f" by ({by})" if by else ""
    return f"sum{groups} (rate({metric}{{{labels}}}{RATE}))"


def now(metric: str, by: str = "", labels: str = FLEET, how: str = "sum") -> str:
    """Return a query for a gauge."""
    groups = f" by ({by})" if by else ""
    return f"{how}{groups} ({metric}{{{labels}}})"


def steps(*pairs: tuple[float | None, str]) -> Json:
    """Return thresholds: from each value on, its colour."""
    return {"mode": "absolute", "steps": [{"value": v, "color": c} for v, c in pairs]}


def good_below(warning: float, bad: float) -> Json:
    """Return thresholds for what is better small."""
    return steps((None, "green"), (warning, "orange"), (bad, "red"))


def targets(queries: dict[str, str], *, instant: bool = False) -> list[Json]:
    """Return a panel's queries from legend to expression."""
    return [
        {
            "refId": chr(ord("A") + i),
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "expr": expr,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
        }
        for i, (legend, expr) in enumerate(queries.items())
    ]


def panel(kind: str, title: str, text: str, unit: str, width: int, height: int) -> Json:
    """Return what every panel has."""
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
    }


def stat(
    title: str,
    query: str,
    text: str,
    unit: str = "short",
    thresholds: Json | None = None,
    mappings: list[Json] | None = None,
    decimals: int | None = None,
) -> Json:
    """Return a figure that is read from across the room."""
    made = panel("stat", title, text, unit, 3, 4)
    defaults = made["fieldConfig"]["defaults"]
    defaults["thresholds"] = thresholds or steps((None, "blue"))
    defaults["mappings"] = mappings or []
    defaults["noValue"] = "–"
    if decimals is not None:
        defaults["decimals"] = decimals
    made["targets"] = targets({title: query})
    made["options"] = {
        "colorMode": "value",
        "graphMode": "none" if mappings else "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return made


def graph(
    title: str,
    queries: dict[str, str],
    text: str,
    unit: str = "short",
    *,
    width: int = 8,
    stacked: bool = False,
    thresholds: Json | None = None,
    least_max: float | None = None,
    by_status: bool = False,
    by_engine: bool = False,
) -> Json:
    """Return a graph over time.

    Args:
        title: What it shows.
        queries: From legend to expression.
        text: What it means and what to make of it.
        unit: Grafana's name of the unit.
        width: In 24ths of the page.
        stacked: Whether the parts add up.
        thresholds: Drawn as dashed lines.
        least_max: The scale's end at least, so that noise on an idle fleet does not fill the panel.
        by_status: Colours the series by HTTP status.
        by_engine: Links the series to the engine's own dashboard.
    """
    made = panel("timeseries", title, text, unit, width, 8)
    defaults = made["fieldConfig"]["defaults"]
    defaults["min"] = 0
    defaults["custom"] = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    if least_max is not None:
        defaults["custom"]["axisSoftMax"] = least_max
    if thresholds is not None:
        defaults["thresholds"] = thresholds
        defaults["custom"]["thresholdsStyle"] = {"mode": "dashed"}
    if by_engine:
        defaults["links"] = [ENGINE_LINK]
    if by_status:
        made["fieldConfig"]["overrides"] = [
            {
                "matcher": {"id": "byRegexp", "options": f"/{pattern}/"},
                "properties": [{"id": "color", "value": {"mode": "shades", "fixedColor": colour}}],
            }
            for pattern, colour in STATUS_COLOURS.items()
        ]
    made["targets"] = targets(queries)
    made["options"] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def state_mappings() -> list[Json]:
    """Return how numbers of states are shown."""
    shown = {str(n): {"text": s, "color": c, "index": n} for s, (n, c) in STATES.items()}
    return [{"type": "value", "options": shown}]


def timeline(title: str, legend: str, query: str, text: str, *, height: int = 8) -> Json:
    """Return engines' states over time, a row for each series."""
    made = panel("state-timeline", title, text, "short", 24, height)
    made["fieldConfig"]["defaults"] |= {
        "mappings": state_mappings(),
        "color": {"mode": "thresholds"},
        "thresholds": steps((None, "text")),
        "custom": {"fillOpacity": 75, "lineWidth": 0},
        "links": [ENGINE_LINK],
    }
    made["targets"] = targets({legend: query})
    made["options"] = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.85,
        "perPage": 30,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
    }
    return made


def row(title: str) -> Json:
    """Return a heading."""
    return {"type": "row", "title": title, "collapsed": False, "gridPos": {"w": 24, "h": 1}}


def placed(panels: list[Json]) -> list[Json]:
    """Give panels their numbers and places, left to right, then down."""
    x = y = height = 0
    for number, each in enumerate(panels, 1):
        place = each["gridPos"]
        if x + place["w"] > 24:
            x, y, height = 0, y + height, 0
        each["id"] = number
        place |= {"x": x, "y": y}
        x, height = x + place["w"], max(height, place["h"])
    return panels


def variable(name: str, label: str, query: str, *, all_value: str | None = None) -> Json:
    """Return a variable filled from Prometheus."""
    made = {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }
    if all_value is not None:
        everything = {"text": "All", "value": "$__all"}
        made |= {"includeAll": True, "allValue": all_value, "current": everything}
    return made


def dashboard(uid: str, title: str, text: str, variables: list[Json], panels: list[Json]) -> Json:
    """Return a dashboard."""
    source = {"type": "datasource", "name": "datasource", "label": "Source", "query": "prometheus"}
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["vllm-whisper-router"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Whisper router",
                "tags": ["vllm-whisper-router"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "enable": True,
                    "iconColor": "red",
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "expr": 'ALERTS{alertname=~"VllmRouter.*", alertstate="firing", ' + FLEET + "}",
                    "titleFormat": "{{alertname}}",
                    "textFormat": "{{engine}}{{model}}{{instance}}",
                }
            ]
        },
        "templating": {
            "list": [
                source,
                variable(
                    "namespace",
                    "Namespace",
                    "label_values(vllm_router_draining, namespace)",
                    all_value=".*",
                ),
                variable(
                    "job",
                    "Routers",
                    'label_values(vllm_router_draining{namespace=~"$namespace"}, job)',
                    all_value=".+",
                ),
                *variables,
            ]
        },
        "panels": placed(panels),
    }
