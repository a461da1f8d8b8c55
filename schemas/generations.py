"""The generations of an augmentation job: requests to the model that one row takes, one after the other."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.job import Sampling, Section

_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


def _is_empty(value: Any) -> bool:
    return value in (None, [], {})


class Generation(Section):
    """One request to the model for each row. Its text is a variable, under its name, of the prompts of later ones."""

    name: str = Field(pattern=_NAME)
    """name of the generation: letters, digits and `_`"""
    prompt: str | None = Field(None, exclude_if=_is_empty)
    """Jinja file, whose variables are columns of the input row and the names of earlier generations; by default the
    job's own recipe and prompt"""
    kind: Literal["text", "judge"] = Field("text", exclude_if=lambda kind: kind == "text")
    """`text` writes a text. `judge` writes one token: its value is the probability of the first of `choices`, 0 to 1,
    among these choices"""
    follows: str | None = Field(None, exclude_if=_is_empty)
    """name of an earlier generation, whose conversation goes on: its prompt and its text come before this prompt, and
    the KV cache still holds both"""
    compare: list[str] = Field([], min_length=0, max_length=2, exclude_if=_is_empty)
    """for a judge: names of two earlier generations. They are the variables `first` and `second` of the prompt, in both
    orders, and the value is the mean probability that the one named first here is chosen"""
    threshold: float | None = Field(None, ge=0, le=1, exclude_if=_is_empty)
    """smallest value of a judge; a row below it is rejected, with the generation's name as the reason"""
    sampling: dict[str, Any] = Field({}, exclude_if=_is_empty)
    """keys of `sampling` that differ from the job's"""
    when: str | None = Field(None, min_length=1, exclude_if=_is_empty)
    """Jinja expression over the same variables; where it is false the generation is left out: `verdict == 'weak'`"""
    parse: Literal["text", "json", "choice"] = "text"
    """form of the text: `json` makes its parts variables too (`verdict.score`), `choice` makes the model choose one of
    `choices`"""
    choices: list[Annotated[str, Field(min_length=1)]] = Field([], exclude_if=_is_empty)
    """texts of which the model writes one, for `parse: choice`. Those of a judge are `[yes, no]` by default, and
    `[A, B]` where it compares"""
    reject_when: str | None = Field(None, min_length=1, exclude_if=_is_empty)
    """Jinja expression, checked after the generation; where it is true the row is rejected, with the generation's name
    as the reason: `verdict.score < 4`"""

    @model_validator(mode="after")
    def _check_choices(self) -> "Generation":
        if self.kind == "judge":
            self._check_judge()
        elif self.threshold is not None or self.compare:
            raise ValueError("`threshold` and `compare` need `kind: judge`")
        elif (self.parse == "choice") != bool(self.choices):
            raise ValueError("`parse: choice` and `choices` belong together")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("`choices` names one text twice")
        if isinstance(structured := self.sampling.get("structured_outputs"), dict):
            if self.parse == "choice":
                raise ValueError("sampling.structured_outputs has no use with `choices`")
            if self.parse == "text" and "json" in structured:
                raise ValueError("sampling.structured_outputs.json needs `parse: json`")
            if self.parse == "text" and self.prompt is None:
                raise ValueError("sampling.structured_outputs needs a `prompt`: the job's recipe has a form of its own")
        return self

    def _check_judge(self) -> None:
        if self.parse != "text" or self.sampling or self.prompt is None:
            raise ValueError("a judge has a `prompt`, and neither `parse` nor `sampling`: it writes one token")
        if self.compare and (len(self.compare) != 2 or self.follows):
            raise ValueError("`compare` names two generations, and takes no `follows`")
        if len(self.judge_choices) < 2 or (self.compare and len(self.judge_choices) != 2):
            raise ValueError("a judge needs two `choices` or more, and two where it compares")

    @property
    def judge_choices(self) -> list[str]:
        """Choices of a judge."""
        return self.choices or (["A", "B"] if self.compare else ["yes", "no"])


def check_generations(generations: list[Generation], keep: list[str]) -> None:
    """Checks the generations of a job with each other.

    Args:
        generations: at least one, in their order.
        keep: names of the generations of which the first that ran is the row's text.

    Raises:
        ValueError: two have the same name, several have no prompt, or `keep` names none of them or one that may be left
            out alone.
    """
    names = [each.name for each in generations]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two generations are named {twice}")
    if sum(each.prompt is None for each in generations) > 1:
        raise ValueError("only one generation may be without `prompt`: it is the job's own recipe and prompt")
    for number, each in enumerate(generations):
        if unknown := [name for name in (each.follows, *each.compare) if name and name not in names[:number]]:
            raise ValueError(f"{each.name}: no earlier generation is named {unknown[0]}")
        if judge := [name for name in (each.follows, *each.compare) if name and _is_judge(generations, name)]:
            raise ValueError(f"{each.name}: {judge[0]} is a judge, and has no text")
    if judge := [name for name in keep if name in names and _is_judge(generations, name)]:
        raise ValueError(f"keep: {judge[0]} is a judge, and has no text")
    if unknown := [name for name in keep if name not in names]:
        raise ValueError(f"keep: no generation is named {unknown[0]}; there are {', '.join(names)}")
    if generations[names.index(keep[-1])].when is not None:
        raise ValueError(f"keep: {keep[-1]} may be left out (`when`); name one behind it that always runs")


def _is_judge(generations: list[Generation], name: str) -> bool:
    return any(each.kind == "judge" for each in generations if each.name == name)


def check_sampling(generations: list[Generation], sampling: Sampling) -> None:
    """Checks the sampling of each generation.

    Args:
        generations: generations of a job.
        sampling: the job's own sampling, which they change.

    Raises:
        ValueError: a key is unknown, or a value is refused.
    """
    for number, generation in enumerate(generations):
        try:
            Sampling.model_validate({**sampling.model_dump(), **generation.sampling})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["generations", str(number), "sampling", *map(str, first["loc"])])
            raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
