"""A sweep: the same rows through several prompts and sampling settings in one run. Each combination is a variant."""

import difflib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from schemas.errors import JobError

# The one variant of a job without a sweep; also a combination that changes nothing.
DEFAULT_VARIANT = "default"
# A shard holds all of each of its rows, and run.json lists them.
_MOST_VARIANTS = 1000

Sweep = dict[str, Annotated[list[Any], Field(min_length=1)]] | list[dict[str, Any]]
"""`{prompt: [p1, p2], temperature: [0.3, 0.9]}`, of which every combination is a variant; or the variants one by one:
`[{prompt: p1, temperature: 0.3}, {prompt: p2}]`"""


@dataclass(frozen=True)
class Variant:
    """One combination, laid over the job.

    Attributes:
        name: what it sets, as `prompt=p1,temperature=0.3`; DEFAULT_VARIANT where it sets nothing.
        values: the same as values, the prompt first, then in the order of the sampling keys.
        prompt: the job's, or its own.
        sampling: the job's section with its own values in it.
    """

    name: str
    values: dict[str, Any]
    prompt: str | None
    sampling: BaseModel


def variants_of(sweep: Sweep | None, prompt: str | None, sampling: BaseModel) -> list[Variant]:
    """The variants in their order, which does not depend on the order of the keys.

    Args:
        prompt: the job's own.
        sampling: the job's own section.

    Raises:
        JobError: a key is neither `prompt` nor one of `sampling`, a value is refused, or two combinations are the same.
    """
    if sweep is None:
        return [Variant(DEFAULT_VARIANT, {}, prompt, sampling)]
    if not sweep:
        raise JobError("sweep", sweep, "it is empty", "leave the key out, or say {temperature: [0.3, 0.9]}")
    variants: list[Variant] = []
    names: dict[str, str] = {}
    # A schema changes what the recipe takes for a text, so it is of the whole job.
    varied = [key for key in type(sampling).model_fields if key != "structured_outputs"]
    for values in _combinations(sweep, ["prompt", *varied]):
        variant = _laid_over(values, prompt, sampling)
        # Notation may hide it: 1 and 1.0; or a value that is the job's own.
        keys = (variant.name, f"{variant.prompt}\0{variant.sampling.model_dump_json()}")
        if twin := next((names[key] for key in keys if key in names), ""):
            cause = "it is there twice" if twin == variant.name else f"it comes to the same as {twin}"
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
    if number > _MOST_VARIANTS:
        remedy = f"leave values out, or list the combinations that you want; {_MOST_VARIANTS} may be"
        raise JobError("sweep", None, f"it has {number:,} combinations", remedy)
    for group in groups:
        keys = [key for key in known if key in group]
        for values in itertools.product(*(group[key] for key in keys)):
            yield dict(zip(keys, values, strict=True))


def _laid_over(values: dict[str, Any], prompt: str | None, sampling: BaseModel) -> Variant:
    own = {key: value for key, value in values.items() if key != "prompt"}
    prompt = values.get("prompt", prompt)
    if "prompt" in values and not (isinstance(prompt, str) and prompt):
        cause = "prompt: it is not a name"
        raise JobError("sweep", _name(values), cause, "name a shipped prompt, or a Jinja file of your own")
    try:
        laid = type(sampling).model_validate({**sampling.model_dump(), **own})
    except ValidationError as error:
        first = error.errors()[0]
        cause = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
        raise JobError("sweep", _name(values), cause, "correct the value in the job file") from None
    values = {key: prompt if key == "prompt" else getattr(laid, key) for key in values}
    return Variant(_name(values), values, prompt, laid)


def _name(values: dict[str, Any]) -> str:
    shown = (value if isinstance(value, str) else json.dumps(value, default=str) for value in values.values())
    return ",".join(f"{key}={value}" for key, value in zip(values, shown, strict=True)) or DEFAULT_VARIANT
