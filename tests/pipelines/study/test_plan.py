"""Study files as they are read: references, bases, order, identity."""

import os
import re

import pytest
import yaml

from pipelines.jobfile import load_any_job
from pipelines.study.plan import read_plan
from schemas.errors import JobError
from schemas.study import Study


def corpus(source, **more):
    return {"words": 1000, "parts": {"own": {"input": source}}, **more}


def write_study(folder, jobs, **more):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "jobs": jobs, "output": str(folder / "out"), **more}))
    return str(path)


def test_a_job_reads_the_folder_of_the_job_that_it_names(tmp_path):
    jobs = {
        "second": corpus("${first}/data"),
        "third": corpus({"path": ["${second}", "x.txt"]}),
        "first": corpus("rows.txt"),
    }
    plan = read_plan(write_study(tmp_path, jobs))
    assert list(plan.jobs) == ["first", "second", "third"]
    first, second, third = plan.jobs.values()
    assert (first.needs, second.needs, third.needs) == ((), ("first",), ("second",))
    assert second.job.parts["own"].input.path == str(tmp_path / "out/first/data")
    assert third.job.parts["own"].input.path == [str(tmp_path / "out/second"), "x.txt"]
    assert first.job.output.path == first.folder == str(tmp_path / "out/first")
    assert first.job.name == "small-first" and first.verb == "compose"


def test_a_job_may_change_a_job_file_and_its_base(tmp_path):
    (tmp_path / "deep.yaml").write_text("words: 5\nseed: 3\noutput: {path: elsewhere}\n")
    (tmp_path / "base.yaml").write_text("base: deep.yaml\nname: other\nparts: {own: {input: a.txt}}\n")
    (job,) = read_plan(write_study(tmp_path, {"mine": {"base": "base.yaml", "words": 9}})).jobs.values()
    assert (job.job.words, job.job.seed, job.job.name) == (9, 3, "small-mine")
    assert job.job.output.path == str(tmp_path / "out/mine")


def test_aliases_share_no_value_that_is_overridden(tmp_path):
    path = tmp_path / "study.yaml"
    text = "name: s\noutput: o\njobs:\n  a: &a {words: 5, parts: {own: {input: a.txt}}}\n  b: *a\n"
    path.write_text(text)
    plan = read_plan(str(path), ["jobs.a.words=7"])
    assert plan.jobs["a"].job.words == 7 and plan.jobs["b"].job.words == 5


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ({"a": corpus("${b}")}, r"jobs\.a = \$\{b\}: it names no other job of the study\n.*name one of a"),
        ({"a": corpus("${a}/data")}, r"jobs\.a = \$\{a\}: it names no other job"),
        ({"a": corpus("${b}"), "b": corpus("${a}")}, r"jobs = a, b: these jobs wait for each other"),
        ({"a": corpus("x", output="there")}, r"jobs\.a\.output\.path: a job of a study lies in the study's folder"),
        ({"a": corpus("x", output={"path": "there"})}, r"jobs\.a\.output\.path"),
        ({"a": corpus("x", wrods=3)}, r"jobs\.a\.wrods: unknown key"),
        ({"a": {"base": "none.yaml"}}, r"jobs\.a\.JOB = .*none\.yaml: No such file"),
        ({"jobs": corpus("x")}, r"jobs: the study's folder has a file or folder `jobs` of its own"),
        ({"study.json": corpus("x")}, r"has a file or folder `study\.json`"),
        ({"a b": corpus("x")}, r"jobs\.a b"),
        ({"a": {"jobs": {"b": corpus("x")}, "name": "n"}}, r"jobs\.a\.jobs: a study inside a study"),
        ({}, r"jobs"),
    ],
)  # fmt: skip
def test_a_faulty_study_is_one_error(tmp_path, jobs, words):
    with pytest.raises(JobError) as raised:
        read_plan(write_study(tmp_path, jobs))
    assert re.search(words, str(raised.value)), str(raised.value)


def test_bases_that_name_each_other_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("base: a.yaml\nwords: 5\n")
    with pytest.raises(JobError, match="each the base of the next"):
        read_plan(write_study(tmp_path, {"a": {"base": "a.yaml"}}))


def test_the_identity_of_a_job_follows_from_its_keys_and_those_of_the_jobs_that_it_needs(tmp_path):
    def identities(**changes):
        jobs = {"a": corpus("x.txt"), "b": corpus("${a}"), "c": corpus("y.txt")}
        for name, change in changes.items():
            jobs[name].update(change)
        return {name: job.identity for name, job in read_plan(write_study(tmp_path, jobs)).jobs.items()}

    plain, changed, faster = identities(), identities(a={"seed": 4}), identities(a={"name": "other"})
    assert plain["a"] != changed["a"] and plain["b"] != changed["b"] and plain["c"] == changed["c"]
    assert faster == plain
    assert len(set(plain.values())) == 3


def test_files_that_a_job_names_are_part_of_what_it_was_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/one.txt", "data/two.txt", "three.txt"):
        (tmp_path / name).write_text("A text.\n")
    for source in ("data", "data/*.txt", {"path": ["data/one.txt"]}):
        (job,) = read_plan(write_study(tmp_path, {"a": corpus(source)})).jobs.values()
        before = job.files_digest()
        os.utime("three.txt", ns=(1, 1))
        assert job.files_digest() == before
        os.utime("data/one.txt", ns=(1, len(str(source))))
        assert job.files_digest() != before


def test_a_choice_of_jobs(tmp_path):
    jobs = {"a": corpus("x"), "b": corpus("${a}"), "c": corpus("${b}"), "d": corpus("y")}
    plan = read_plan(write_study(tmp_path, jobs))
    assert plan.chosen([], None) == ["a", "b", "c", "d"]
    assert plan.chosen(["d", "b"], None) == ["b", "d"]
    assert plan.chosen([], "b") == ["b", "c"]
    for only, start in ((["e"], None), ([], "e")):
        with pytest.raises(JobError, match=r"e: the study has no such job\n.*name one of a, b, c, d"):
            plan.chosen(only, start)


def test_a_study_file_is_known_by_its_key_jobs(tmp_path):
    verb, study = load_any_job(write_study(tmp_path, {"a": corpus("x")}))
    assert verb == "reproduce" and isinstance(study, Study)


@pytest.mark.parametrize("name", ["pocket", "paper"])
def test_the_shipped_studies_are_valid(name):
    plan = read_plan(f"deploy/studies/{name}.yaml")
    assert len(plan.jobs) > 5
