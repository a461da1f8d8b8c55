"""`kindling schema`: the JSON schema accepts the job files that Kindling accepts."""

import json

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.checking.editor_schema import editor_schema
from pipelines.cli.main import app
from pipelines.jobfile import SCHEMAS
from tests.support.files import ROOT

JOBS = sorted((ROOT / "deploy/jobs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def validator():
    schema = editor_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_schema_accepts_each_shipped_job(validator, path):
    assert not list(validator.iter_errors(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize(
    ("job", "is_valid"),
    [
        ("{name: r, recipe: template, input: rows.csv, model: embedded, output: runs/x}", True),
        ("{name: r, recipe: template, input: rows.csv, modell: embedded, output: runs/x}", False),
        ("{name: r, recipe: template, input: {path: a.csv, delimitr: x}, output: runs/x}", False),
        ("{input: rows.csv}", False),  # neither verb can run it: there is no output
        ("{name: l, input: raw/, output: runs/l}", True),
        ("{base: other.yaml, sampling: {temperature: 0.5}}", True),
        ("{base: other.yaml, samplings: 1}", False),
        ("[]", False),
    ],
)
def test_the_schema_follows_the_keys(validator, job, is_valid):
    assert validator.is_valid(yaml.safe_load(job)) is is_valid


def test_the_schema_is_printed_with_the_meaning_of_each_key():
    printed = json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    jobs = {path.rpartition(":")[2] for path in SCHEMAS.values()}
    assert jobs <= printed["$defs"].keys()
    assert all(key["description"] for job in jobs for key in printed["$defs"][job]["properties"].values())
