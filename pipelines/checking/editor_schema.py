"""`kindling schema`: the JSON schema of all job files, by which an editor completes and checks keys."""

from pkgutil import resolve_name
from typing import Any

from pydantic.json_schema import models_json_schema

from pipelines.jobfile import SCHEMAS, VERB_OF_KEY


def editor_schema() -> dict[str, Any]:
    """Returns one JSON schema (draft 2020-12) for the job files of all verbs.

    The keys of a file decide which verb's schema holds, as in `load_any_job`. A file with the key `base` may leave out
    any key, so only its keys at the top are completed.
    """
    jobs = {verb: resolve_name(path) for verb, path in SCHEMAS.items()}
    # Of each verb "validation": the schema of what a file may hold, and not of what a record holds.
    schemas, definitions = models_json_schema([(job, "validation") for job in jobs.values()])
    references = {verb: schemas[job, "validation"] for verb, job in jobs.items()}
    keys = sorted({key for job in jobs.values() for key in job.model_fields})
    with_base = {
        "properties": {"base": {"type": "string", "description": "file beside this one, whose keys this file replaces"}}
        | dict.fromkeys(keys, True),
        "additionalProperties": False,
    }
    label_keys = {"propertyNames": {"enum": sorted(jobs["label"].model_fields)}}
    # Without a key of one verb alone: a file that has begun may become a job of either.
    undecided = {"anyOf": [references["augment"], references["label"]]}
    choice: dict[str, Any] = {"if": label_keys, "then": undecided, "else": references["augment"]}
    for key, verb in reversed(VERB_OF_KEY.items()):
        choice = {"if": {"required": [key]}, "then": references[verb], "else": choice}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Job file of Kindling",
        "type": "object",
        "if": {"required": ["base"]},
        "then": with_base,
        "else": choice,
        "$defs": definitions["$defs"],
    }
