"""The pages of docs/: links lead somewhere, job files are valid, and the reference is that of the schemas."""

import contextlib
import re
import textwrap
from urllib.parse import unquote

import pytest
import yaml

import schemas.augment
import schemas.compose
import schemas.evaluate
import schemas.label
import schemas.train
from docs.job_file_reference import COMMAND, JOBS, PAGE, anchor, insert, reference, section_places
from schemas.errors import JobError
from schemas.job import Section, parse_job
from tests.support.files import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = (schemas.augment, schemas.compose, schemas.evaluate, schemas.label, schemas.train)


def prose_of(page):
    """Text of a page without its code blocks and code spans, in which brackets are no links."""
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^(    .*)$", "", text, flags=re.MULTILINE)


def anchors_of(page):
    """Names that links to a page's headings use, as GitHub makes them: the second of two equal ones ends with -1."""
    anchors = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose_of(page), re.MULTILINE):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        anchors.append(f"{name}-{anchors.count(name)}" if name in anchors else name)
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, name = unquote(target).partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (name and name not in anchors_of(file)):
            broken.append(target)
    assert broken == []


def test_the_reference_is_that_of_the_schemas():
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page, reference()) == page, f"docs/job-file.md is older than schemas/: run {COMMAND}"


def test_the_reference_has_every_job_and_every_key():
    jobs = {value for module in MODULES for name, value in vars(module).items() if name.endswith("Job")}
    assert jobs == set(JOBS.values())
    text = reference()
    for section in [*JOBS.values(), *section_places()]:
        assert issubclass(section, Section)
        for key, field in section.model_fields.items():
            assert f"| `{key}` |" in text and " ".join(field.description.split()) in text


def test_every_meaning_is_a_phrase_that_stands_alone():
    # A phrase that begins so needs the line above it, or is no phrase.
    dependent = re.compile(r"(of|what|how|whether|which|that|those|these|it|as|in|at|this)\b", re.IGNORECASE)
    meanings = {
        f"{section.__name__}.{key}": field.description
        for section in [*JOBS.values(), *section_places()]
        for key, field in section.model_fields.items()
    }
    assert {key: text for key, text in meanings.items() if dependent.match(text) or text.endswith(".")} == {}


def job_files_of(page):
    """Code blocks of a page that are whole job files."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [block for block in map(textwrap.dedent, blocks) if block.lstrip().startswith("name: ")]


def fits_a_job(job):
    for schema in JOBS.values():
        with contextlib.suppress(JobError):
            return bool(parse_job(job, schema))
    return False


def test_the_job_files_on_the_pages_are_valid():
    shown = {f"{page.name}: {text.splitlines()[0]}": text for page in PAGES for text in job_files_of(page)}
    assert len(shown) >= 8
    assert [name for name, text in shown.items() if not fits_a_job(yaml.safe_load(text))] == []
