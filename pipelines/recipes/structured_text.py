"""Texts that follow `sampling.structured_outputs`: the job's schema is checked before anything starts, and each text
once more, since a response may have been cut off."""

import json
from typing import Any

from schemas.errors import JobError
from schemas.job import StructuredOutputs
from schemas.outcomes import CUT_OFF_TEXT
from schemas.rows import RowRejection
from schemas.text import shorten


def schema_text(structured: StructuredOutputs | None) -> str:
    """Returns the JSON schema as text for a prompt's hash; "" where there is none.

    The model writes keys in the order of the schema, and a run's fingerprint sorts them.

    Raises:
        JobError: the schema is not a JSON schema.
    """
    if structured is None or structured.json is None:
        return ""
    _check_schema(structured.json)
    return json.dumps(structured.json)


def check_structured_text(text: str, cut_off: bool, structured: StructuredOutputs | None) -> None:
    """Checks that a response follows the job's form. A regular expression and a grammar are the engine's to hold.

    Args:
        text: the response.
        cut_off: it was stopped before its end.
        structured: form that the job asks for; None for any.

    Raises:
        RowRejection: it was cut off, is not JSON, or is none of the choices.
    """
    if structured is None:
        return
    if cut_off:
        raise RowRejection(CUT_OFF_TEXT)
    if structured.choice is not None and text not in structured.choice:
        raise RowRejection("not_a_choice")
    if structured.json is not None:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            raise RowRejection("not_json") from None


def _check_schema(schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        key = ".".join(["sampling.structured_outputs.json", *map(str, error.absolute_path)])
        cause = f"not a valid JSON schema: {shorten(error.message)}"
        raise JobError(key, None, cause, "correct it; the keywords are those of JSON Schema 2020-12") from None
