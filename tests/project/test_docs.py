"""All pages: links lead somewhere; commands, paths and job files are valid; the reference is that of the schemas."""

import contextlib
import re
import shlex
import subprocess
import textwrap
from urllib.parse import unquote

import pytest
import typer.main
import yaml

import schemas.augment
import schemas.compose
import schemas.evaluate
import schemas.label
import schemas.train
from docs.job_file_reference import COMMAND, JOBS, PAGE, anchor, insert, reference, section_places
from pipelines.cli.main import app
from schemas.errors import JobError
from schemas.job import Section
from schemas.job_parsing import parse_job
from schemas.study import Study
from tests.support.files import ROOT

LISTED = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
NAMES = subprocess.run(LISTED, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
PAGES = sorted({ROOT / name for name in NAMES if name and (ROOT / name).is_file()})
TOP_FOLDERS = ("schemas", "services", "trainers", "eval", "pipelines", "deploy", "tests", "docs")
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
    assert jobs | {Study} == set(JOBS.values())
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


def code_blocks_of(page):
    """Indented code blocks of a page."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page.read_text(encoding="utf-8"), re.MULTILINE)
    return list(map(textwrap.dedent, blocks))


def job_files_of(page):
    """Code blocks of a page that are whole job files."""
    return [block for block in code_blocks_of(page) if block.lstrip().startswith("name: ")]


def fits_a_job(job):
    for schema in JOBS.values():
        with contextlib.suppress(JobError):
            return bool(parse_job(job, schema))
    return False


def test_the_job_files_on_the_pages_are_valid():
    shown = {f"{page.name}: {text.splitlines()[0]}": text for page in PAGES for text in job_files_of(page)}
    assert len(shown) >= 8
    assert [name for name, text in shown.items() if not fits_a_job(yaml.safe_load(text))] == []


def code_spans_of(page):
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose_of(page))


def commands_of(page):
    """Words of each command of Kindling on a page, without `kindling` or `python -m pipelines`."""
    lines = [*code_spans_of(page)]
    for block in code_blocks_of(page):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        # A comment, and what an output quotes after "resume with:", are no part of a command.
        if found := re.match(r"(?:\$ )?(?:.* -- )?(?:kindling|python -m pipelines) ([a-z-][^#;]*)", line):
            yield shlex.split(found[1].replace("...", "ELLIPSIS"))


def faults_of(words):
    """Names in a command that the command line does not know: a verb, or an option of it."""
    command, unknown = typer.main.get_command(app), []
    while words and hasattr(command, "commands"):
        if words[0].startswith("-") or words[0] in ("ELLIPSIS", "NAME", "VERB"):
            break
        if words[0] not in command.commands:
            return [words[0]]
        command, words = command.commands[words[0]], words[1:]
    options = {name for option in command.params for name in option.opts} | {"--help", "-h"}
    for word in words:
        if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options:
            unknown.append(word)
    return unknown


def test_a_wrong_verb_and_a_wrong_option_are_found():
    assert faults_of(shlex.split("augment job.yaml --set a=b --json")) == []
    assert faults_of(shlex.split("pool start job.yaml --name x")) == []
    assert faults_of(["augmnt", "job.yaml"]) == ["augmnt"]
    assert faults_of(["pool", "begin"]) == ["begin"]
    assert faults_of(["bench", "scale", "--row", "1"]) == ["--row"]


def test_every_command_on_the_pages_exists():
    commands = [(page, words) for page in PAGES if page.name != "CHANGELOG.md" for words in commands_of(page)]
    assert len(commands) > 80
    assert {words[0] for _, words in commands} >= {"label", "preview", "augment", "verify", "train", "evaluate"}
    wrong = {f"{page.name}: {shlex.join(words)}": faults for page, words in commands if (faults := faults_of(words))}
    assert wrong == {}


def test_every_make_target_on_the_pages_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for page in PAGES for block in code_blocks_of(page) for line in block.splitlines()]
    lines += [span for page in PAGES for span in code_spans_of(page)]
    named = {found[1] for line in lines if (found := re.match(r"make ([a-z][\w-]*)", line))}
    assert named >= {"demo", "test", "test-full", "setup", "monitoring"}
    assert named - targets == set()


def test_every_path_on_the_pages_exists():
    wrong = {}
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for span in code_spans_of(page):
            path = span.split(":")[0]
            ours = re.fullmatch(rf"(?:{'|'.join(TOP_FOLDERS)})/[\w./*-]*(?:\.\w+|/)", path)
            if ours and "NAME" not in path and not list(ROOT.glob(path)):
                wrong.setdefault(page.name, []).append(path)
    assert wrong == {}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()
