"""Variables of a template that may be blank, null or absent: those that the template itself tests or defaults."""

import logging

import pytest

from pipelines.inputs.reader import InputReader
from pipelines.recipes import all_fields, make_recipes, optional_fields
from pipelines.recipes.template import Template
from schemas.augment import AugmentJob
from schemas.errors import JobError
from schemas.job_parsing import parse_job
from schemas.rows import RowError
from tests.support.files import write_jsonl


@pytest.fixture
def template(tmp_path):
    def make(text):
        path = tmp_path / "mine.jinja"
        path.write_text(text)
        return Template(str(path))

    return make


def render(recipe, values):
    return recipe.render(values, 7).messages[0]["content"]


BLANKS = [{"a": None}, {}, {"a": ""}, {"a": " \n"}]


@pytest.mark.parametrize("values", BLANKS)
@pytest.mark.parametrize(
    ("text", "blank", "given"),
    [
        ("Q{% if a %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if not a %} none{% else %} {{ a }}{% endif %}", "Q none", "Q word"),
        ("Q{% if a is defined %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if a is undefined %} none{% else %} {{ a }}{% endif %}", "Q none", "Q word"),
        ("Q{% if a is not none %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if a is none %} none{% endif %}", "Q none", "Q"),
        ("Q{% if a != '' %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if a == none %} none{% else %} {{ a }}{% endif %}", "Q none", "Q word"),
        ("Q{% if a|length > 0 %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if a|trim|length == 0 %} none{% else %} {{ a }}{% endif %}", "Q none", "Q word"),
        ("Q{% if a.strip() %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if a is defined and a|trim and a|length < 9 %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{% if not a or a == 'no' %} none{% else %} {{ a }}{% endif %}", "Q none", "Q word"),
        ("Q{% if 1 == 2 %}{% elif a %} {{ a }}{% endif %}", "Q", "Q word"),
        ("Q{{ ' ' ~ a if a }}", "Q", "Q word"),
        ("Q {{ a if a else 'none' }}", "Q none", "Q word"),
        ("Q {{ a or 'none' }}", "Q none", "Q word"),
        ("Q {{ a|default('none') }}", "Q none", "Q word"),
        ("Q {{ a|d('none')|upper }}", "Q NONE", "Q WORD"),
        ("Q{% if a %}{% for i in range(2) %} {{ a }}{% endfor %}{% endif %}", "Q", "Q word word"),
        ("{% set has = a is defined and a != '' %}Q{% if has %} yes{% endif %}", "Q", "Q yes"),
        ("{% set a = a or 'none' %}Q {{ a }}", "Q none", "Q word"),
        ("{% for a in ['x'] %}{{ a }}{% endfor %}{% if a %}{% endif %}", "x", "x"),
    ],
)
def test_a_variable_that_the_template_tests_or_defaults_may_be_blank(template, text, values, blank, given):
    recipe = template(text)
    assert list(recipe.optional_fields) == ["a"]
    assert render(recipe, values) == blank
    assert render(recipe, {"a": "word"}) == given


@pytest.mark.parametrize("values", BLANKS)
@pytest.mark.parametrize(
    "text",
    [
        "x {{ a }}",
        "x {% if a %}{{ a }}{% endif %}{{ a }}",  # also used where nothing guards it
        "x {% if not a %}{{ a }}{% endif %}",
        "x {% if a %}{% else %}{{ a }}{% endif %}",
        "x {% if b or a %}{{ a }}{% endif %}",
        "x {% if a == 'joy' %}glad{% else %}sad{% endif %}",  # a null is no reason to write `sad`
        "x {% if a in ['joy'] %}glad{% endif %}",
        "x {% if a|length > 8 %}long{% else %}short{% endif %}",
        "x {{ b or a }}",
        "x {{ a|upper|default('none') }}",
        "x {% macro m() %}{{ a }}{% endmacro %}{{ m() }}",
        "x {% for i in a %}{% endfor %}",
        "x {% if a.b %}{{ a.b }}{% endif %}",
        "x {% if b %}{% set a = 'set' %}{% endif %}{{ a }}",
    ],
)
def test_any_other_variable_may_not(template, text, values):
    with pytest.raises(RowError) as raised:
        template(text).render({"b": "word", **values}, 7)
    assert str(raised.value) in ("a is null", "a is blank")


@pytest.mark.parametrize("value", [0, False, [], 0.0])
def test_a_tested_value_that_is_merely_false_stays_what_it_is(template, value):
    assert render(template("x {{ a|default('none') }}{% if a is none %}none{% endif %}"), {"a": value}) == f"x {value}"


@pytest.mark.parametrize("text", ["x {{ a.title }}", "x {{ a.split }}", "x {{ range }}"])
def test_a_method_is_never_written_with_its_address(template, text):
    with pytest.raises(RowError, match="a method and not a value"):
        template(text).render({"a": "word"}, 7)


def test_a_null_within_a_value_is_never_written_as_a_word(template):
    with pytest.raises(RowError, match="a value that is null"):
        render(template("x {% if a %}{{ a.title }}{% endif %}"), {"a": {"title": None}})
    assert render(template("x{% if a.title %} {{ a.title }}{% endif %}"), {"a": {"title": None}}) == "x"


def test_the_row_keeps_its_cells_as_they_are(template):
    assert template("x {{ a or 1 }}").render({"a": None}, 7).inputs == {"a": None}


def rows_of(tmp_path, rows, text, **section):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "mine.jinja").write_text(text)
    job = {
        "name": "r", "input": {"path": str(tmp_path / "rows.jsonl"), **section}, "recipe": "template",
        "prompt": str(tmp_path / "mine.jinja"), "output": {"path": str(tmp_path / "run")},
    }  # fmt: skip
    parsed = parse_job(job, AugmentJob)
    recipes = make_recipes(parsed)
    reader = InputReader(parsed.input, all_fields(recipes), optional_fields(recipes))
    return [render(recipes["default"], row.values) for _, _, row in reader.all_rows()]


ALPACA = "{{ instruction }}{% if input %} | {{ input }}{% endif %}"


def test_an_optional_column_may_be_missing_and_that_is_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="kindling")
    rows = [{"instruction": "Sing.", "inputs": "x"}, {"instruction": "Dance.", "inputs": "y"}]
    assert rows_of(tmp_path, rows, ALPACA) == ["Sing.", "Dance."]
    assert "no column 'input'" in caplog.text and "did you mean 'inputs'" in caplog.text


def test_rows_with_and_without_a_value_of_an_optional_column(tmp_path):
    rows = [{"instruction": "Sing.", "input": ""}, {"instruction": "Add.", "input": "1 2"}, {"instruction": "Go."}]
    assert rows_of(tmp_path, rows, ALPACA) == ["Sing.", "Add. | 1 2", "Go."]


def test_a_column_that_the_job_names_must_be_there(tmp_path):
    with pytest.raises(JobError, match="no such column"):
        rows_of(tmp_path, [{"instruction": "Sing."}], ALPACA, columns={"input": "context"})
    with pytest.raises(JobError, match="no such column"):
        rows_of(tmp_path, [{"input": "Sing."}], ALPACA)
