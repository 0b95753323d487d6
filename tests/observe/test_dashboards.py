"""The dashboards as files: up to date, tidy, and explaining themselves."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.clients.servers import ROOT

DASHBOARDS = sorted((ROOT / "helm" / "dashboards").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def test_they_are_what_the_script_makes() -> None:
    command = [sys.executable, "scripts/dashboards.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_share_what_grafana_knows_them_by() -> None:
    found = [read(path) for path in DASHBOARDS]
    assert len({each["uid"] for each in found}) == len({each["title"] for each in found}) == 2


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_places_of_their_own(path: Path) -> None:
    panels = read(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_says_what_it_means_and_in_which_unit(path: Path) -> None:
    for panel in read(path)["panels"]:
        if panel["type"] == "row":
            continue
        assert len(panel["description"]) > 20
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_is_of_the_chosen_fleet_and_source(path: Path) -> None:
    for panel in read(path)["panels"]:
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            metrics = target["expr"].count("vllm_router_") + target["expr"].count("process_")
            assert target["expr"].count('job=~"$job"') == metrics
