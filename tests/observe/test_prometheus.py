"""What a real Prometheus makes of a running router: every panel and every alert has its series."""

import json
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.clients.servers import ROOT
from tests.observe.fleet import JOB, RULES, Observed, observed

DASHBOARDS = sorted((ROOT / "helm" / "dashboards").glob("*.json"))
#: A selector of one of our metrics, or of one that every Prometheus client has.
SELECTOR = re.compile(r"(?:namespace_job:)?(?:vllm_router|process)_[a-z_:0-9]+(?:\{[^}]*\})?")
#: Until series are there and rates have two points; only a broken query takes as long.
PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(tmp_path_factory.mktemp("observed")) as running:
        until_none_missing(
            lambda: [] if running.query('vllm_router_engine_state{state="ready"} == 1') else ["x"]
        )
        time.sleep(3)
        running.engines[2].kill()
        yield running


def until_none_missing(missing: Callable[[], list[str]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := missing():
        assert time.monotonic() < deadline, "\n".join(left)
        time.sleep(0.5)


def panel_queries(path: Path) -> list[tuple[str, str]]:
    panels = json.loads(path.read_text())["panels"]
    return [(p["title"], t["expr"]) for p in panels for t in p.get("targets", [])]


def filled(expression: str, fleet: Observed) -> str:
    """Return a panel's query as Grafana would send it."""
    for name, value in {
        "$namespace": ".*",
        "$job": JOB,
        "$engine": fleet.engines[0].url,
        "$__rate_interval": "10s",
        "$__range": "1m",
    }.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def has_value(series: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(each["value"][1])) for each in series)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_every_panel_returns_series(path: Path, fleet: Observed) -> None:
    queries = panel_queries(path)
    assert len(queries) > 15
    until_none_missing(
        lambda: [
            f"{title}: {query}"
            for title, query in queries
            if not has_value(fleet.query(filled(query, fleet)))
        ]
    )


def test_every_query_that_operators_are_told_returns_series(fleet: Observed) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    queries = re.findall(r"^\| .+\? \| `(.+)` \|$|^\| Seconds .* \| `(.+)` \|$", text, re.M)
    found = ["".join(pair) for pair in queries]
    assert len(found) == 4
    until_none_missing(
        lambda: [
            each for each in found if not has_value(fleet.query(re.sub(r"\[\w+\]", "[10s]", each)))
        ]
    )


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_has_values(path: Path, fleet: Observed) -> None:
    for variable in json.loads(path.read_text())["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable.get("definition", ""))
        # Without Kubernetes nothing has a namespace.
        if found is not None and variable["name"] != "namespace":
            selector, label = filled(found[1], fleet), found[2]
            assert all(label in each for each in fleet.ask("series", **{"match[]": selector}))


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_selector_of_every_rule_returns_series(rule: dict[str, Any], fleet: Observed) -> None:
    selectors = SELECTOR.findall(rule["expr"])
    assert selectors
    until_none_missing(lambda: [each for each in selectors if not fleet.query(each)])


def test_every_rule_is_carried_out_without_an_error(fleet: Observed) -> None:
    def unhealthy() -> list[str]:
        (group,) = fleet.ask("rules")["groups"]
        return [
            f"{rule['name']}: {rule['health']} {rule.get('lastError')}"
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]

    until_none_missing(unhealthy)


def test_an_engine_that_dies_is_counted_and_about_to_be_told(fleet: Observed) -> None:
    dead = fleet.engines[2].url
    until_none_missing(
        lambda: [
            query
            for query in (
                f'vllm_router_ejections_total{{engine="{dead}"}} > 0',
                f'ALERTS{{alertname="VllmRouterEngineOut", engine="{dead}"}}',
            )
            if not fleet.query(query)
        ]
    )


def test_the_page_is_as_prometheus_wants_it(fleet: Observed) -> None:
    page = httpx.get(fleet.router.url + "/metrics").text
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "arguments", [("check", "rules", str(RULES)), ("test", "rules", "tests/observe/alerts.yaml")]
)
def test_promtool_accepts_the_rules_and_their_tests(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire() -> None:
    tests = yaml.safe_load((ROOT / "tests" / "observe" / "alerts.yaml").read_text())["tests"]
    fired = {
        each["alertname"]
        for test in tests
        for each in test.get("alert_rule_test", [])
        if each["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}
