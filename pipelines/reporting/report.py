"""`kindling report`: what a study, or some runs, found, from their result files alone."""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.corpora.stats import Words
from pipelines.pages.tables import Figure, Table, html_tables
from pipelines.reporting.answers import Answer, answers, largest_gain
from pipelines.reporting.changes import Positivity, changes_of
from pipelines.reporting.charts import Chart, blimp_chart, sentiment_charts
from pipelines.reporting.curves import loss_chart, reject_chart, throughput_chart
from pipelines.reporting.evaluations import Evaluations, read_evaluations
from pipelines.reporting.folders import ReportRun, ReportSources, open_folders
from pipelines.reporting.further_tables import further_tables
from pipelines.reporting.lineage import Lineage, read_lineage
from pipelines.reporting.paper_tables import paper, paper_tables
from pipelines.reporting.samples import Sample, read_readings, read_samples
from pipelines.reporting.students import student_table
from pipelines.result import Result
from schemas.text import printable

DEFAULT_PROMPTS, DEFAULT_ROWS = 200, 60
_MAX_PICTURES = 6
_MAX_MODELS_BY_EMOTION = 3
_MAX_PICTURE_BYTES = 3 << 20


@dataclass(frozen=True)
class EmotionHeat:
    """Emotions of the prompts against those of a model's responses: number of responses, by both."""

    model: str
    matrix: dict[str, dict[str, int]]


@dataclass(frozen=True)
class LensPicture:
    """Picture of the logit lens that an evaluation drew, as a PNG in base64."""

    run: str
    text: str
    png: str


@dataclass(frozen=True)
class Report(Result):
    """Report of a study, or of some runs.

    Attributes:
        name: name of the study, or of the runs.
        description: what is studied; "" without a study.
        study_folder: folder of the study; "" without one.
        answers: the paper's questions, answered.
        notes: what a reader of the figures must know: runs that are not complete, results that are missing.
        students: each student against its base; None without students.
        tables: the paper's tables.
        further: tables of evaluations that the paper does not have.
        not_run: a line for each table of the paper, and each further evaluation, without data.
        charts: the figures.
        heats: emotions asked for against expressed, of a base and of the student that gained most.
        samples: texts to look at.
        pictures: the logit lens.
        lineage: how the runs were made.
        source: source of the paper's values.
    """

    name: str
    description: str
    study_folder: str
    answers: list[Answer]
    notes: list[str]
    students: Table | None
    tables: list[Table]
    further: list[Table]
    not_run: list[str]
    charts: list[Chart]
    heats: list[EmotionHeat]
    samples: list[Sample]
    pictures: list[LensPicture]
    lineage: Lineage
    source: str

    @property
    def all_tables(self) -> list[Table]:
        """The students, the paper's tables, and the further ones."""
        return [*([self.students] if self.students else []), *self.tables, *self.further]

    def as_json(self) -> dict[str, Any]:
        """Plain values, but for texts and pictures."""
        return {
            "name": self.name,
            "description": self.description,
            "answers": [asdict(answer) for answer in self.answers],
            "notes": self.notes,
            "tables": [asdict(table) for table in self.all_tables],
            "not_run": self.not_run,
            "charts": [asdict(chart) for chart in self.charts],
            "lineage": asdict(self.lineage),
        }

    def records(self) -> list[dict[str, Any]]:
        """Returns a row for each line of the table of students, or of the paper's tables where there are none."""
        tables = [self.students] if self.students else self.tables
        return [
            {"table": table.title, **dict(zip(table.header, map(_plain, row), strict=True))}
            for table in tables
            for row in table.rows
        ]

    def _repr_html_(self) -> str:
        return html_tables(self.all_tables)


def report(
    folders: str | Sequence[str], prompts: int = DEFAULT_PROMPTS, rows: int = DEFAULT_ROWS, words: Words = "blanks"
) -> Report:
    """Reports what a study or some runs found; it reads result files alone, and writes nothing.

    Args:
        folders: folder of a study; or run folders of label, augment, compose, train and evaluate.
        prompts: largest number of prompts whose responses are shown; 0 for none.
        rows: largest number of rows of augmentations that are shown; 0 for none.
        words: definition of a word in the tables of corpora, as `stats` takes it.

    Raises:
        RunError: no folder is named, one holds neither a run nor a study, a file is damaged, two models have the same
            name, or nltk or its data are not there.
    """
    sources = open_folders([folders] if isinstance(folders, str) else list(folders))
    runs = sources.runs
    evaluations = read_evaluations(runs)
    positivity, grammar = changes_of(evaluations)
    readings = read_readings(evaluations, runs)
    tables, not_run = paper_tables(runs, evaluations, words)
    further, further_not_run = further_tables(evaluations)
    shown = _shown(evaluations, positivity)
    charts = [
        *sentiment_charts(evaluations, shown), *blimp_chart(evaluations, grammar), *loss_chart(runs),
        *throughput_chart(runs), *reject_chart(runs),
    ]  # fmt: skip
    table = student_table(evaluations, positivity, grammar, readings, runs)
    return Report(
        name=printable(sources.study.name if sources.study else ", ".join(run.name for run in runs)),
        description=printable(sources.study.description if sources.study else ""),
        study_folder=sources.study_folder,
        answers=answers(evaluations, positivity, grammar, readings),
        notes=list(map(printable, (*sources.notes(), *evaluations.missing, *_failures(sources)))),
        students=table,
        tables=tables,
        further=further,
        not_run=[*not_run, *further_not_run],
        charts=charts,
        heats=_heats(evaluations, shown),
        samples=read_samples(evaluations, runs, prompts, rows),
        pictures=_pictures(runs),
        lineage=read_lineage(sources),
        source=paper()["source"],
    )


def _failures(sources: ReportSources) -> list[str]:
    return [
        f"{name} could not be evaluated in {run.name}: {error}"
        for run in sources.of_kind("evaluate")
        for name, error in (run.record.get("failures") or {}).items()
    ]


def _shown(evaluations: Evaluations, positivity: Sequence[Positivity]) -> list[str]:
    """Names of the models that are shown by emotion: all of a few, else a base and the student that gained most."""
    models = list(evaluations.sentiment[0].models) if evaluations.sentiment else []
    if len(models) <= _MAX_MODELS_BY_EMOTION or not positivity:
        return models[:_MAX_MODELS_BY_EMOTION]
    best = largest_gain(positivity)
    return [best.base, best.student]


def _heats(evaluations: Evaluations, shown: Sequence[str]) -> list[EmotionHeat]:
    heats = []
    for name in shown:
        model = evaluations.sentiment[0].models[name]
        matrix: dict[str, Counter[str]] = {}
        for asked, expressed in zip(model.emotions or (), model.labels, strict=False):
            if asked and expressed:
                matrix.setdefault(asked, Counter())[expressed] += 1
        if matrix:
            heats.append(EmotionHeat(name, {asked: dict(counts) for asked, counts in matrix.items()}))
    return heats


def _pictures(runs: Sequence[ReportRun]) -> list[LensPicture]:
    pictures = []
    for run in runs:
        texts = (run.job.get("logit_lens") or {}).get("texts") or [] if run.kind == "evaluate" else []
        for number, text in enumerate(texts):
            path = run.store.path(f"logit_lens/logit_lens-{number}.png")
            if run.store.fs.exists(path) and run.store.fs.size(path) <= _MAX_PICTURE_BYTES:
                png = base64.b64encode(run.store.fs.cat_file(path)).decode()
                pictures.append(LensPicture(run.name, printable(text), png))
    return pictures[:_MAX_PICTURES]


def _plain(cell: str | Figure) -> str:
    return cell if isinstance(cell, str) else f"{cell.value} ({cell.interval})" if cell.interval else cell.value
