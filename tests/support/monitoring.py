"""What deploy/monitoring ships, and the targets that a job announces."""

import json
import shutil

import pytest

from tests.support.files import ROOT

MONITORING = ROOT / "deploy" / "monitoring"


DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "kindling.json").read_text())


PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not installed"
)


def entries(targets):
    return [json.loads(path.read_text())[0] for path in targets.glob("kindling-*.json")]
