"""What deploy/monitoring ships: promtool accepts it, and each part names what is there."""

import json
import re
import subprocess

import pytest
import yaml
from prometheus_client import generate_latest

from services.observability.metrics import Endpoint, ReplicaStatus
from services.observability.series import AugmentMetrics
from tests.support.files import ROOT
from tests.support.monitoring import DASHBOARD, MONITORING, PANELS, needs_prometheus


@needs_prometheus
@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
)
def test_promtool_accepts_what_we_ship(arguments):
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0 and "SUCCESS" in done.stdout + done.stderr, done.stdout + done.stderr


@needs_prometheus
@pytest.mark.parametrize("kind", Endpoint.__subclasses__())
def test_names_and_units_are_as_prometheus_wants_them(kind):
    series = kind("a")
    for each in vars(series).values():
        if getattr(each, "_labelnames", ()) and not each._labelvalues:  # promtool passes over what has no value
            each.labels(*(["a"] * len(each._labelnames)))
    if kind is AugmentMetrics:
        series.add_replica_series(lambda: [ReplicaStatus(0, "serving", 1, 1, 0, 1.0)])
    text = generate_latest(series.registry)
    families = list(series.registry.collect())
    assert len(families) >= 3 and all(family.samples for family in families)
    assert b"_created" not in text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_alert_has_a_case():
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    raised = {each["alertname"] for case in cases for each in case["alert_rule_test"] if each["exp_alerts"]}
    assert raised == {rule["alert"] for rule in rules}
    assert all(rule["annotations"]["remedy"].strip() for rule in rules)


def test_every_series_is_in_the_manual_and_what_is_asked_for_is_there():
    families = [family for kind in Endpoint.__subclasses__() for family in kind("a").registry.collect()]
    series = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    manual = (ROOT / "docs" / "watch.md").read_text()
    assert [name for name in sorted(series) if f"`{name}" not in manual] == []
    asked = json.dumps(PANELS) + (MONITORING / "alerts.yml").read_text()
    named = {name.removesuffix("_bucket") for name in re.findall(r"\bkindling_\w+", asked)}
    assert named - series == set()
    assert all(family.documentation for family in families)


def test_the_dashboard_is_one_that_grafana_takes():
    assert DASHBOARD["uid"] == "kindling" and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    assert [each["type"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "query"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries") and panel["title"] and panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == list("ABC")[: len(panel["targets"])]
        assert all("$run" in target["expr"] for target in panel["targets"])


def test_compose_mounts_what_is_there_and_opens_nothing_to_others():
    services = yaml.safe_load((MONITORING / "compose.yml").read_text())["services"]
    for service in services.values():
        ours = [volume.split(":")[0] for volume in service["volumes"] if volume.startswith(".")]
        assert ours and all((MONITORING / path).exists() for path in ours)
        assert "ports" not in service
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    grafana = services["grafana"]["environment"]
    assert grafana["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "kindling.yml").read_text())["providers"]
    assert provider["options"]["path"] == "$KINDLING_DASHBOARDS" and grafana["KINDLING_DASHBOARDS"]


def test_make_monitoring_says_how_to_start_both():
    done = subprocess.run(["make", "-s", "monitoring"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"deploy/monitoring/[\w./]+", done.stdout):
        assert (ROOT / path).exists(), path
    assert "127.0.0.1:9090" in done.stdout and "127.0.0.1:3000" in done.stdout
