"""`kindling reproduce --dry-run`: the jobs of a study in their order, and at most how much those that are left take.

Every amount is an upper bound: an answer may end before `max_tokens`, a training before its last epoch. Time follows
from the speed of jobs of the same kind that are done, or else from `rates` of the study file. What cannot be known yet
is None, and never a guess.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from eval.blimp import PARADIGMS
from pipelines.evaluation.prompts import first_per_emotion, read_prompts
from pipelines.inputs.minimal_pairs import load_paradigms
from pipelines.previewing.rendering import render_job
from pipelines.result import Result
from pipelines.run_status.page import titled_list
from pipelines.run_status.study import read_study_record
from pipelines.study.plan import Plan, PlannedJob
from pipelines.study.record import is_done
from pipelines.training.rows import row_sources
from schemas.augment import AugmentJob
from schemas.compose import Part
from schemas.emotions import EMOTIONS
from schemas.errors import KindlingError
from schemas.evaluate import Blimp, EvaluateJob, PromptSet
from schemas.study import Rates, StudyJobRecord
from schemas.text import clock, plural, shorten
from schemas.train import ClassifierStage, TrainJob
from services.storage.store import ShardStore
from trainers.rows import TrainingRow

# Rows whose prompts are rendered, to see that they can be.
_MAX_RENDERED = 200
_PAIRS_OF_A_PARADIGM = 1000
# English text has about three words in four tokens of today's models.
_TOKENS_PER_WORD = 4 / 3


@dataclass(frozen=True)
class JobForecast:
    """Upper bounds for one job; each amount is None where it cannot be known before other jobs are done.

    Attributes:
        name: name of the job in the study.
        verb: verb that runs it.
        needs: names of the jobs that it needs.
        is_done: true where nothing is left of it.
        rows: number of outputs of an augmentation, or of answers in an evaluation.
        tokens: number of tokens that an engine writes, or that a training reads.
        pairs: number of minimal pairs that models decide.
        seconds: time that it takes.
        fault: why the job cannot start as it is; empty where nothing is known against it.
    """

    name: str
    verb: str
    needs: tuple[str, ...]
    is_done: bool
    rows: int | None = None
    tokens: int | None = None
    pairs: int | None = None
    seconds: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class StudyForecast(Result):
    """Forecast of a study.

    Attributes:
        study: folder of the study.
        jobs: forecast of each chosen job, in the order in which they start.
        price_per_hour: price of the machine; None where the study file has none.
    """

    study: str
    jobs: list[JobForecast]
    price_per_hour: float | None

    @property
    def seconds(self) -> float | None:
        """Time of all jobs one after the other; None where the time of one is not known."""
        times = [job.seconds for job in self.jobs if not job.is_done]
        return None if None in times else sum(time for time in times if time is not None)

    @property
    def cost(self) -> float | None:
        """Price of that time; None where time or price is not known."""
        return (
            None if self.seconds is None or self.price_per_hour is None else self.seconds / 3600 * self.price_per_hour
        )

    def as_json(self) -> dict[str, Any]:
        """Returns plain values, for `--json`."""
        return {**super().as_json(), "seconds": self.seconds, "cost": self.cost}

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each job."""
        return [vars(job).copy() for job in self.jobs]

    def lines(self) -> list[str]:
        """The plan as lines for a terminal."""
        rows = [("job", "verb", "at most", "time", "needs")]
        for job in self.jobs:
            time = "" if job.is_done else "?" if job.seconds is None else clock(job.seconds)
            amount = "done" if job.is_done else _amount_text(job)
            rows.append((job.name, job.verb, amount, time, ", ".join(job.needs)))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
        left = [job for job in self.jobs if not job.is_done]
        known = [job.seconds for job in left if job.seconds is not None]
        cost = "" if self.cost is None else f", {self.cost:,.2f} at {self.price_per_hour:g} an hour"
        time = f"{clock(sum(known))} one after the other{cost}" if known else "time not known"
        lines += ["", f"{plural(len(left), 'job')} left, {time}; into {self.study}"]
        if unknown := len(left) - len(known):
            lines.append(f"? ({plural(unknown, 'job')}): known when the jobs before are done, or one of the same kind,")
            lines.append("or with a speed in `rates` of the study file")
        faults = [f"{job.name}: {shorten(job.fault, 300)}" for job in self.jobs if job.fault]
        return [*(line.rstrip() for line in lines), *titled_list("fault", faults)]


def forecast(plan: Plan, chosen: list[str]) -> StudyForecast:
    """Forecasts the jobs of a study that are left. Nothing is written.

    Args:
        plan: the study.
        chosen: names of the jobs to run.

    Raises:
        RunError: the record of the study cannot be read.
    """
    record = read_study_record(ShardStore(plan.study.output.path))
    records = record.jobs if record else {}
    forecasts: dict[str, JobForecast] = {}
    for name, planned in plan.jobs.items():
        done = name in records and is_done(planned, records[name])
        forecasts[name] = _amounts(planned, done, forecasts)
    speeds = _speeds(forecasts, records)
    jobs = [_timed(forecasts[name], plan.study.rates, speeds) for name in chosen]
    return StudyForecast(plan.study.output.path, jobs, plan.study.rates.price_per_hour)


def _amounts(planned: PlannedJob, done: bool, earlier: dict[str, JobForecast]) -> JobForecast:
    job = JobForecast(planned.name, planned.verb, planned.needs, done)
    can_be_read = all(earlier[name].is_done for name in planned.needs)
    if isinstance(planned.job, AugmentJob):
        return _augmentation(job, planned.job, can_be_read)
    if isinstance(planned.job, TrainJob):
        try:
            return replace(job, tokens=_training_tokens(planned, earlier))
        except KindlingError as error:
            return job if done else replace(job, fault=str(error).partition("\n")[0])
    return _evaluation(job, planned.job) if isinstance(planned.job, EvaluateJob) else job


def _augmentation(forecast: JobForecast, job: AugmentJob, can_be_read: bool) -> JobForecast:
    if can_be_read and (job.input.dataset is None or job.input.limit is None):  # a dataset may be on the Hub
        try:
            rows = render_job(job, 0, False, _MAX_RENDERED).run.outputs
        except KindlingError as error:
            return forecast if forecast.is_done else replace(forecast, fault=str(error).partition("\n")[0])
    elif job.input.limit is None:
        return forecast
    else:
        rows = job.input.limit * job.samples * len(job.variants())
    return replace(forecast, rows=rows, tokens=rows * job.max_row_tokens)


def _training_tokens(planned: PlannedJob, earlier: dict[str, JobForecast]) -> int | None:
    total = 0.0
    for number, stage in enumerate(planned.job.stages):
        if isinstance(stage, ClassifierStage):
            return None
        parts = [*stage.parts.values(), *getattr(stage, "replay", {}).values()]
        if all(_can_be_read(part, planned, earlier) for part in parts):
            rows = chain.from_iterable(row_sources(number, stage, planned.job.seed))
            tokens: float | None = sum(map(_words, rows)) * _TOKENS_PER_WORD
        else:
            words = getattr(stage, "words", None)
            tokens = _sum(
                earlier[name].tokens if (name := _name_of(part.run, planned)) else _tokens(part.words) for part in parts
            )
            tokens = _tokens(words) if words is not None else tokens
        steps = stage.optimizer
        if steps.max_steps is not None and stage.max_length is not None:
            most = steps.max_steps * steps.batch_size * steps.accumulation * stage.max_length
            tokens = most if tokens is None else min(most, tokens * steps.epochs)
        elif tokens is not None:
            tokens *= steps.epochs
        if tokens is None:
            return None
        total += tokens
    return round(total)


def _can_be_read(part: Part, planned: PlannedJob, earlier: dict[str, JobForecast]) -> bool:
    """Returns whether the rows of a part are here: no job that is left makes them, and they are not on the Hub."""
    if part.input and part.input.dataset:
        return False
    path = part.run or (part.input and part.input.path) or ""
    return all(earlier[name].is_done for name in planned.needs if f"/{name}/" in f"{path}/")


def _words(row: TrainingRow) -> int:
    prompt = row.prompt or ""
    turns = [prompt] if isinstance(prompt, str) else [message["content"] or "" for message in prompt]
    return sum(len(text.split()) for text in [row.text, *turns])


def _name_of(run: str | None, planned: PlannedJob) -> str | None:
    """Returns the name of the job of the study that makes a run; jobs lie beside each other."""
    return next((name for name in planned.needs if run and run.rstrip("/").rpartition("/")[2] == name), None)


def _tokens(words: int | str | None) -> float | None:
    return words * _TOKENS_PER_WORD if isinstance(words, int) else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _evaluation(forecast: JobForecast, job: EvaluateJob) -> JobForecast:
    answers, pairs = 0, 0
    for name in job.evaluations:
        section = getattr(job, name)
        try:
            if isinstance(section, PromptSet):
                answers += _prompts(section, name) * len(job.models)
            elif isinstance(section, Blimp):
                pairs += _pairs(section) * len(job.models)
        except KindlingError:  # the prompts of a job that is not done, or a hub that is not asked here
            return forecast
    return replace(forecast, rows=answers, tokens=answers * int(job.sampling.model_dump()["max_tokens"]), pairs=pairs)


def _prompts(section: PromptSet, name: str) -> int:
    if section.prompts is None:  # the job has responses
        return 0
    try:
        return len(first_per_emotion(read_prompts(section, name), section.per_emotion))
    except KindlingError:  # they are made by a job that is not done
        if section.per_emotion is None:
            raise
        return section.per_emotion * len(EMOTIONS)


def _pairs(section: Blimp) -> int:
    """Counts minimal pairs; of those on the Hub, which is not asked here, the number that BLiMP has is known."""
    if section.path is None:
        return len(section.paradigms or PARADIGMS) * (section.pairs_per_paradigm or _PAIRS_OF_A_PARADIGM)
    paradigms = load_paradigms("blimp", section, PARADIGMS, section.pairs_per_paradigm)
    return sum(len(pairs) for pairs in paradigms.values())


def _speeds(forecasts: dict[str, JobForecast], records: dict[str, StudyJobRecord]) -> dict[str, float]:
    """Returns tokens in a second of the jobs that are done, by their verb; an evaluation has pairs besides."""
    speeds = {}
    for verb in ("augment", "train"):
        done = [job for job in forecasts.values() if job.verb == verb and job.is_done and job.tokens]
        if seconds := sum(records[job.name].seconds for job in done):
            speeds[verb] = sum(job.tokens or 0 for job in done) / seconds
    return speeds


def _timed(job: JobForecast, rates: Rates, speeds: dict[str, float]) -> JobForecast:
    stated = rates.training_tokens_per_second if job.verb == "train" else rates.output_tokens_per_second
    speed = speeds.get("train" if job.verb == "train" else "augment", stated)
    parts = [(job.tokens, speed), (job.pairs, rates.pairs_per_second)]
    if job.tokens is None or any(amount and not speed for amount, speed in parts):
        return job
    return replace(job, seconds=sum(amount / speed for amount, speed in parts if amount and speed))


def _amount_text(job: JobForecast) -> str:
    if job.tokens is None:
        return "?"
    amounts = [(job.rows, "row"), (job.tokens, "token"), (job.pairs, "pair")]
    return ", ".join(plural(amount, noun) for amount, noun in amounts if amount) or "no text, no training"
