"""The section `sweep`: the same rows go through several prompts and sampling settings. Each combination is a
variant."""

import difflib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from schemas.errors import JobError

# Name of the one variant of a job without a sweep, and of a combination that changes nothing.
DEFAULT_VARIANT = "default"
# A shard holds all variants of each of its rows, and run.json lists them.
_MAX_VARIANTS = 1000

Sweep = dict[str, Annotated[list[Any], Field(min_length=1)]] | list[dict[str, Any]]
"""lists of values, of which every combination is a variant: `{prompt: [p1, p2], temperature: [0.3, 0.9]}`; or a list of
the variants: `[{prompt: p1, temperature: 0.3}, {prompt: p2}]`"""


@dataclass(frozen=True)
class Variant:
    """One combination of a sweep.

    Attributes:
        name: keys and values of the combination, as `prompt=p1,temperature=0.3`; DEFAULT_VARIANT where it has none.
        values: keys and values of the combination: the prompt first, then in the order of the sampling keys.
        prompt: prompt of the combination, or else of the job.
        sampling: sampling section of the job, changed by the values of the combination.
    """

    name: str
    values: dict[str, Any]
    prompt: str | None
    sampling: BaseModel


def make_variants(sweep: Sweep | None, prompt: str | None, sampling: BaseModel) -> list[Variant]:
    """Returns the variants of a job, in an order that does not depend on the order of the sweep's keys.

    Args:
        sweep: section of the job; None gives one variant.
        prompt: prompt of the job.
        sampling: sampling section of the job.

    Raises:
        JobError: a key is neither `prompt` nor one of `sampling`, a value is refused, two combinations are the same, or
            there are more than a thousand.
    """
    if sweep is None:
        return [Variant(DEFAULT_VARIANT, {}, prompt, sampling)]
    if not sweep:
        raise JobError("sweep", sweep, "it is empty", "leave the key out, or give values: {temperature: [0.3, 0.9]}")
    variants: list[Variant] = []
    names: dict[str, str] = {}
    # The form of the texts decides which of them the recipe accepts, so all variants share it.
    varied = [key for key in type(sampling).model_fields if key != "structured_outputs"]
    for values in _combinations(sweep, ["prompt", *varied]):
        variant = _make_variant(values, prompt, sampling)
        # Two combinations may be equal under different names: 1 and 1.0, or a value that the job has anyway.
        keys = (variant.name, f"{variant.prompt}\0{variant.sampling.model_dump_json()}")
        if twin := next((names[key] for key in keys if key in names), ""):
            cause = "the variant is listed twice" if twin == variant.name else f"the variant is the same as {twin}"
            raise JobError("sweep", variant.name, cause, "leave one of the two out")
        names.update(dict.fromkeys(keys, variant.name))
        variants.append(variant)
    return variants


def _combinations(sweep: Sweep, known: list[str]) -> Iterator[dict[str, Any]]:
    groups = [sweep] if isinstance(sweep, dict) else [{key: [one[key]] for key in one} for one in sweep]
    for key in (key for group in groups for key in group if key not in known):
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        remedy = f"did you mean `{close[0]}`?" if close else f"the keys are {', '.join(known)}"
        raise JobError(f"sweep.{key}", None, "a sweep varies `prompt` and the keys of `sampling`", remedy)
    number = sum(math.prod(map(len, group.values())) for group in groups)
    if number > _MAX_VARIANTS:
        remedy = f"leave values out, or list the combinations that you want; at most {_MAX_VARIANTS} are possible"
        raise JobError("sweep", None, f"it has {number:,} combinations", remedy)
    for group in groups:
        keys = [key for key in known if key in group]
        for values in itertools.product(*(group[key] for key in keys)):
            yield dict(zip(keys, values, strict=True))


def _make_variant(values: dict[str, Any], prompt: str | None, sampling: BaseModel) -> Variant:
    own = {key: value for key, value in values.items() if key != "prompt"}
    prompt = values.get("prompt", prompt)
    if "prompt" in values and not (isinstance(prompt, str) and prompt):
        cause = "prompt: not a name"
        raise JobError("sweep", _variant_name(values), cause, "name a shipped prompt, or a Jinja file of your own")
    try:
        changed = type(sampling).model_validate({**sampling.model_dump(), **own})
    except ValidationError as error:
        first = error.errors()[0]
        cause = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
        raise JobError("sweep", _variant_name(values), cause, "correct the value in the job file") from None
    plain = changed.model_dump()
    values = {key: prompt if key == "prompt" else plain.get(key, getattr(changed, key)) for key in values}
    return Variant(_variant_name(values), values, prompt, changed)


def _variant_name(values: dict[str, Any]) -> str:
    shown = (value if isinstance(value, str) else json.dumps(value, default=str) for value in values.values())
    return ",".join(f"{key}={value}" for key, value in zip(values, shown, strict=True)) or DEFAULT_VARIANT
