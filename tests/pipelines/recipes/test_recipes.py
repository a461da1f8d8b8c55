import json
import pickle
import re
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name
from typing import get_args

import pytest

from pipelines.inputs.reader import InputReader
from pipelines.jobfile import load_job
from pipelines.recipes import RECIPES, jinja_prompt, make_recipe
from pipelines.recipes.babylm import BabylmStory
from pipelines.recipes.jinja_prompt import JinjaPrompt
from pipelines.recipes.job_recipe import JobRecipe
from pipelines.recipes.messages import Messages
from pipelines.recipes.template import Template
from schemas.augment import AugmentJob
from schemas.emotions import EMOTIONS, NEGATIVE, NEUTRAL, POSITIVE
from schemas.errors import JobError
from schemas.job_parsing import parse_job
from schemas.rows import RowError, RowRejection, row_seed

# Of rows whose prompts draw nothing by it.
SEED = 7
PIPELINES = Path(jinja_prompt.__file__).resolve().parent.parent


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


EXAMPLES = read_jsonl(PIPELINES / "recipes" / "prompts" / "babylm_examples.jsonl")


@pytest.fixture(scope="module")
def story():
    return BabylmStory("p3")


@pytest.fixture
def template(tmp_path):
    def make(text, name="mine.jinja"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Template(str(path))

    return make


def text_of(prompt):
    assert [message["role"] for message in prompt.messages] == ["user"]
    return prompt.messages[0]["content"]


def row_error(recipe, values):
    with pytest.raises(RowError) as raised:
        recipe.render(values, SEED)
    return str(raised.value)


def job_error(call):
    with pytest.raises(JobError) as raised:
        call()
    assert raised.value.cause and raised.value.remedy
    return raised.value


# What is shipped


def test_the_taxonomy_is_the_28_emotions_in_three_groups():
    assert len(EMOTIONS) == len(set(EMOTIONS)) == 28
    assert set(EMOTIONS) == POSITIVE | NEGATIVE | NEUTRAL
    assert len(POSITIVE) + len(NEGATIVE) + len(NEUTRAL) == 28


# Table 17 of the paper: how many percent of the tuned model's answers to each emotion's prompts were positive.
PERCENT_POSITIVE = {
    "admiration": 100.0, "amusement": 90.0, "anger": 70.0, "annoyance": 83.33, "approval": 96.67, "caring": 96.67,
    "confusion": 86.67, "curiosity": 90.0, "desire": 83.33, "disappointment": 70.0, "disapproval": 66.67,
    "disgust": 76.67, "embarrassment": 90.0, "excitement": 90.0, "fear": 80.0, "gratitude": 100.0, "grief": 85.0,
    "joy": 96.67, "love": 93.33, "neutral": 86.67, "nervousness": 73.33, "optimism": 96.67, "pride": 100.0,
    "realization": 96.67, "relief": 96.67, "remorse": 86.67, "sadness": 80.0, "surprise": 86.67,
}  # fmt: skip
# Its percentages are of 30 prompts each, but for these.
PROMPTS = {"grief": 20, "pride": 29}


@pytest.mark.parametrize(("group", "percent"), [(POSITIVE, 94.75), (NEUTRAL, 86.67), (NEGATIVE, 78.86)])
def test_the_groups_are_those_of_the_papers_tables(group, percent):
    prompts = {emotion: PROMPTS.get(emotion, 30) for emotion in group}
    mean = sum(PERCENT_POSITIVE[emotion] * prompts[emotion] for emotion in group) / sum(prompts.values())
    assert mean == pytest.approx(percent, abs=0.006)


def test_each_emotion_has_exactly_two_examples():
    assert Counter(example["emotion"] for example in EXAMPLES) == dict.fromkeys(EMOTIONS, 2)
    for example in EXAMPLES:
        assert set(example) == {"emotion", "context", "story"}
        assert all(value.strip() == value != "" for value in example.values())
    assert len({example["story"] for example in EXAMPLES}) == 56


def test_no_example_breaks_the_rule_about_openings():
    openings = ("once upon a time", "one day", "once there was")
    assert [example["story"] for example in EXAMPLES if example["story"].lower().startswith(openings)] == []


def test_the_demo_corpus_covers_every_emotion(story):
    rows = read_jsonl(PIPELINES / "data" / "demo_corpus.jsonl")
    assert {row["emotions"][0] for row in rows} == set(EMOTIONS)
    for row in rows:
        prompt = story.render({"context": row["context"], "emotion": row["emotions"], "source": row["source"]}, SEED)
        assert row["context"] in text_of(prompt)


# The shipped prompts


# Rules that the paper's appendices A and B list for each.
RULES = {"p1": 5, "p2": 3, "p3": 5, "v1": 7, "v2": 8, "v3": 6}


@pytest.mark.parametrize("prompt", RULES)
def test_each_rule_of_the_paper_is_named_in_a_comment_before_its_line(prompt):
    text = (PIPELINES / "recipes" / "prompts" / f"{prompt}.jinja").read_text(encoding="utf-8")
    named = re.findall(r"^\{# rule (\d+): \S.{10,} -#\}\n- \w.{20,}$", text, re.MULTILINE)
    assert [int(number) for number in named] == list(range(1, RULES[prompt] + 1))
    assert len(re.findall(r"^- ", text, re.MULTILINE)) == RULES[prompt]


@pytest.mark.parametrize("prompt", ["p1", "p2", "p3"])
@pytest.mark.parametrize("emotion", EMOTIONS)
def test_a_shipped_prompt_asks_for_every_emotion_and_sends_no_comment(prompt, emotion):
    text = text_of(BabylmStory(prompt).render({"context": "The kettle sang.", "emotion": emotion}, SEED))
    assert text.endswith(f"\n\n{emotion}: The kettle sang. =>")
    assert len(re.findall(r"^- ", text, re.MULTILINE)) == RULES[prompt]
    assert not re.search(r"[{}#]|\brule \d|appendix|\n\n\n", text)


@pytest.mark.parametrize("prompt", ["p1", "p2"])
def test_the_fixed_examples_are_the_same_for_every_emotion(prompt):
    shown = [
        [example["emotion"] for example in EXAMPLES if example["story"] in text and example["context"] in text]
        for text in (text_of(BabylmStory(prompt).render({"context": "c", "emotion": e}, SEED)) for e in EMOTIONS)
    ]
    assert shown == [["anger", "joy"]] * 28


DRAWS = json.loads((PIPELINES / "recipes" / "prompts" / "babylm_draws.json").read_text(encoding="utf-8"))


def drawn(seed):
    text = text_of(BabylmStory("p2").render({"context": "c", "emotion": "joy"}, seed))
    return re.search(r"write (.+)\. Its main character is (.+)\.\n", text).groups()


def test_the_seed_draws_genre_and_character():
    genres, characters = DRAWS["genres"], DRAWS["characters"]
    assert len(set(genres)) == len(genres) and len(set(characters)) == len(characters)
    pairs = [drawn(seed) for seed in range(len(genres) * len(characters))]
    assert set(pairs) == {(genre, character) for genre in genres for character in characters}
    # Changing these would give a run that is resumed other prompts than it began with.
    assert pairs[0] == (genres[0], characters[0])
    assert drawn(row_seed(0, "a.jsonl", 0, 0)) == ("a tall tale", "a robot that collects leaves")


def test_samples_of_a_row_draw_for_themselves():
    seeds = [row_seed(0, "a.jsonl", 0, sample) for sample in range(8)]
    assert len({drawn(seed) for seed in seeds}) > 4
    assert [drawn(seed) for seed in seeds] == [drawn(seed) for seed in seeds]


@pytest.mark.parametrize("prompt", ["p1", "p3"])
def test_the_other_prompts_draw_nothing(prompt):
    recipe, values = BabylmStory(prompt), {"context": "c", "emotion": "joy"}
    assert len({text_of(recipe.render(values, seed)) for seed in range(50)}) == 1


@pytest.mark.parametrize(
    ("name", "rejected"),
    [("babylm_p1", []), ("babylm_p2", []), ("babylm_p3", []), ("demo", []),
     ("alpaca_rewrite", ["nooutput", "url", "unseen_image", "broken_encoding"])],
)  # fmt: skip
def test_shipped_jobs_render_the_corpora_they_name(name, rejected, monkeypatch):
    monkeypatch.chdir(PIPELINES.parent)
    shipped = load_job(f"deploy/jobs/{name}.yaml")
    recipe = make_recipe(shipped)
    reader = InputReader(shipped.input, list(recipe.fields))
    found, drops = [], []
    for number, (_, _, row) in enumerate(reader.all_rows()):
        try:
            found.append(text_of(recipe.render(row.values, number)))
        except RowRejection as rejection:
            drops.append(str(rejection))
    assert len(set(found)) == len(found) >= 16 and drops == rejected


# babylm_story


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_the_prompt_shows_the_context_and_the_two_examples_of_its_emotion(story, emotion):
    values = {"context": "The kettle sang all by itself.", "emotion": emotion}
    prompt = story.render(values, SEED)
    text = text_of(prompt)
    assert text.endswith(f"{emotion}: The kettle sang all by itself. =>")
    shown = [example["emotion"] for example in EXAMPLES if example["story"] in text]
    assert shown == [emotion, emotion]
    assert [example["emotion"] for example in EXAMPLES if example["context"] in text] == [emotion, emotion]
    assert (prompt.emotion, prompt.emotions, prompt.inputs) == (emotion, [emotion], values)
    assert "{" not in text.replace(values["context"], "") and "#}" not in text


def test_of_several_labels_the_first_is_asked_for_and_all_are_kept(story):
    prompt = story.render({"context": "A dog barked.", "emotion": ["fear", "surprise", "joy"]}, SEED)
    assert (prompt.emotion, prompt.emotions) == ("fear", ["fear", "surprise", "joy"])
    assert text_of(prompt).endswith("fear: A dog barked. =>")
    assert not any(e["story"] in text_of(prompt) for e in EXAMPLES if e["emotion"] in ("surprise", "joy"))


def test_the_context_is_not_read_as_a_template(story):
    context = "{{ examples }} {% for x in y %} {# hidden #}"
    assert context in text_of(story.render({"context": context, "emotion": "joy"}, SEED))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"context": "a", "emotion": "happiness"}, "emotion 'happiness' is not one of the 28 GoEmotions labels"),
        ({"context": "a", "emotion": ["joy", "glee"]}, "emotion 'glee' is not one of the 28 GoEmotions labels"),
        ({"context": "a", "emotion": ["joy", None]}, "emotion None is not one of the 28 GoEmotions labels"),
        ({"context": "a", "emotion": [["joy"]]}, "emotion ['joy'] is not one of the 28 GoEmotions labels"),
        ({"context": "a", "emotion": []}, "emotion has no label"),
        ({"context": "a", "emotion": None}, "emotion is null"),
        ({"context": "a"}, "emotion is null"),
        (
            {"context": "a", "emotion": 17},
            "emotion has the number 17, and its file names no labels (ClassLabel) by number",
        ),
        ({"context": "a", "emotion": " "}, "emotion is blank"),
        ({"context": None, "emotion": "joy"}, "context is null"),
        ({"emotion": "joy"}, "context is null"),
        ({"context": 3.5, "emotion": "joy"}, "context is float, not text"),
        ({"context": ["a"], "emotion": "joy"}, "context is list, not text"),
        ({"context": "", "emotion": "joy"}, "context is blank"),
        ({"context": " \n\t", "emotion": "joy"}, "context is blank"),
        ({"context": "half \ud83d a pair", "emotion": "joy"}, "context is not valid Unicode"),
    ],
)
def test_rows_that_have_no_story(story, values, reason):
    assert row_error(story, values) == reason


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "plain.jinja").write_text("{{ context }}")
    (tmp_path / "marked.jinja").write_text("\ufeff{{ context }}")
    plain, marked = (Template(str(tmp_path / f"{name}.jinja")) for name in ("plain", "marked"))
    assert text_of(marked.render({"context": "here"}, SEED)) == "here"
    assert marked.prompt_hash == plain.prompt_hash
    (tmp_path / "wide.jinja").write_bytes("{{ context }}".encode("utf-16"))
    assert job_error(lambda: Template(str(tmp_path / "wide.jinja"))).remedy == "write it again as UTF-8"


def test_a_story_prompt_of_ones_own(tmp_path):
    path = tmp_path / "short.jinja"
    path.write_text("{{ emotion|upper }} in {{ context }} ({{ examples|length }})")
    own = BabylmStory(str(path))
    assert own.prompt_id == "babylm_story/short"
    assert text_of(own.render({"context": "here", "emotion": "joy"}, SEED)) == "JOY in here (2)"


def test_the_hash_changes_with_the_template(tmp_path, story):
    path = tmp_path / "p3.jinja"
    shipped = (PIPELINES / "recipes" / "prompts" / "p3.jinja").read_text()
    path.write_text(shipped)
    assert BabylmStory(str(path)).prompt_hash == story.prompt_hash
    path.write_text(shipped.replace("Task:", "Tasks:"))
    assert BabylmStory(str(path)).prompt_hash != story.prompt_hash
    assert len(story.prompt_hash) == 16


def test_the_hash_changes_with_the_examples(tmp_path):
    path = tmp_path / "p.jinja"
    path.write_text("x")
    assert JinjaPrompt(str(path), "one").hash != JinjaPrompt(str(path), "two").hash


# template


def test_a_template_finds_its_variables(template):
    recipe = template("{% for w in words %}{{ w }} {{ loop.index }}{% endfor %}{% set z = 1 %}{{ z }}{{ a.b|upper }}")
    assert list(recipe.fields) == ["a", "words"]
    assert recipe.prompt_id == "template/mine"


def test_a_template_renders_any_columns(template):
    recipe = template("\n  {{ title }} has {{ n + 1 }}: {{ tags|join(', ') }} {{ meta.kind }}\n")
    values = {"title": "It", "n": 2, "tags": ["a", "b"], "meta": {"kind": "k"}, "kept": None}
    prompt = recipe.render(values, SEED)
    assert text_of(prompt) == "It has 3: a, b k"
    assert (prompt.inputs, prompt.emotion, prompt.emotions) == (values, "", [])


@pytest.mark.parametrize(
    ("values", "reason"),
    [({"a": None}, "a is null"), ({}, "a is null"), ({"a": ""}, "a is blank"), ({"a": " \n"}, "a is blank")],
)
def test_a_template_refuses_null_and_blank_cells(template, values, reason):
    assert row_error(template("x {{ a }}"), values) == reason


@pytest.mark.parametrize("value", [0, False, [], 0.0])
def test_a_template_takes_values_that_are_merely_false(template, value):
    assert text_of(template("x {{ a }}").render({"a": value}, SEED)) == f"x {value}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ a.missing }}", {"b": 1}),
        ("{{ a.b.c }}", {"x": 1}),
        ("{{ a + 1 }}", "text"),
        ("{{ 1 / a }}", 0),
        ("{{ a[5] }}", [1]),
        ("{% if a %}{% endif %}", "text"),
        ("{% for i in range(10 ** 6) %}{{ a }}{% endfor %}", "text"),
    ],
)
def test_a_template_that_fails_on_a_row_is_that_rows_fault(template, text, value):
    assert "the template mine" in row_error(template(text), {"a": value})


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("fine\n{{ a }\n", 2, "unexpected"),
        ("a\nb\n{% if a %}", 3, "end of template"),
        ("a\n\n\n{{ a|nosuchfilter }}", 4, "nosuchfilter"),
        ("{% nosuchtag %}", 1, "nosuchtag"),
    ],
)
def test_a_template_with_a_syntax_error_names_its_line(template, text, line, words):
    error = job_error(lambda: template(text))
    assert error.key == "prompt" and error.value.endswith("mine.jinja")
    assert f"at line {line}: " in error.cause and words in error.cause


@pytest.mark.parametrize("recipe", [Template, BabylmStory])
def test_a_missing_template_names_the_shipped_ones(tmp_path, recipe):
    for path in (str(tmp_path / "absent.jinja"), "p4", "", "recipes/p3"):
        error = job_error(lambda path=path: recipe(path))
        assert (error.key, error.value) == ("prompt", path)
        assert "shipped prompt: p1, p2, p3, tasks, v1, v2, v3" in error.remedy


def test_a_template_that_is_not_utf8(template):
    assert "not UTF-8" in job_error(lambda: template(b"caf\xe9 {{ a }}")).cause


@pytest.mark.parametrize(
    "text",
    [
        "{{ x.__class__.__mro__ }}",
        "{{ x['__class__'].__mro__ }}",
        "{{ x|attr('__class__') }}",
        "{{ x.__class__.__mro__[1].__subclasses__() }}",
        "{{ x.__init__.__globals__ }}",
        "{{ [].__class__.__base__.__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ ''.join.__self__.__class__ }}",
        "{{ '{0.__class__.__mro__}'.format(x) }}",
        "{{ '{0.__class__}'|format(x) }}{{ ('{0.__class__}'.format)(x) }}",
        "{{ '{y.__class__}'.format_map({'y': x}) }}",
        "{{ [x]|map(attribute='__class__')|list|first }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ range.__self__ }}{{ cycler.__init__.__globals__.os }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set _ = x.append(1) %}{{ x }}",
        "{% set _ = x.clear() %}{{ x }}",
        "{{ (x|attr('__cl' ~ 'ass__')).__name__ }}",
    ],
)
def test_a_template_reaches_nothing_but_its_variables(template, text):
    values = {"x": ["value"]}
    recipe = template(text)
    try:
        rendered = text_of(recipe.render(values, SEED))
    except RowError:
        rendered = ""
    for leak in ("class", "object at", "function", "module", "method", "root:", "uid="):
        assert leak not in rendered.replace("__class__", "")
    assert values == {"x": ["value"]}


def test_a_pickled_recipe_renders_the_same(template, story):
    own = template("Say {{ a }}.")
    own.render({"a": "first"}, SEED)  # compiled by now
    copy = pickle.loads(pickle.dumps(own))
    assert copy.render({"a": "b"}, SEED) == own.render({"a": "b"}, SEED)
    assert (copy.prompt_id, copy.prompt_hash, copy.fields) == (own.prompt_id, own.prompt_hash, own.fields)
    values = {"context": "It rained.", "emotion": "joy"}
    assert pickle.loads(pickle.dumps(story)).render(values, SEED) == story.render(values, SEED)
    assert pickle.loads(pickle.dumps(Messages())).prompt_hash == Messages().prompt_hash


# template: structured outputs

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "mood": {"enum": ["glad", "sad"]}},
    "required": ["title", "mood"],
    "additionalProperties": False,
}


def structured(tmp_path, schema=SCHEMA, recipe="template", kind="json"):
    (tmp_path / "mine.jinja").write_text("{{ context }}")
    prompt = {"template": str(tmp_path / "mine.jinja")}.get(recipe)
    return parse_job({
        "name": "a", "input": {"path": "x"}, "recipe": recipe, "prompt": prompt, "output": {"path": "y"},
        "sampling": {"structured_outputs": {kind: schema}} if schema else {},
    }, AugmentJob)  # fmt: skip


def dropped(recipe, text, cut_off=False):
    with pytest.raises(RowRejection) as raised:
        recipe.finish(text, cut_off)
    return str(raised.value)


def test_a_structured_text_is_json_or_refused(tmp_path):
    recipe = make_recipe(structured(tmp_path))
    text = '{"title": "Rain", "mood": "glad"}'
    assert recipe.finish(text) == (text, "")
    assert dropped(recipe, text[:-4], cut_off=True) == "cut_off"
    assert [dropped(recipe, bad) for bad in (text[:-4], "Sure: {}", "", "[" * 100_000)] == ["not_json"] * 4
    # A number that was broken off is a number.
    assert dropped(recipe, "12", cut_off=True) == "cut_off"
    assert make_recipe(structured(tmp_path, schema=None)).finish("Sure: {}", cut_off=True) == ("Sure: {}", "")


def test_the_schema_and_the_order_of_its_keys_are_part_of_the_prompts_hash(tmp_path):
    other = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}
    assert other == SCHEMA
    hashes = [make_recipe(structured(tmp_path, schema)).prompt_hash for schema in (SCHEMA, other, None)]
    assert len(set(hashes)) == 3 and hashes[0] == make_recipe(structured(tmp_path)).prompt_hash
    assert Template(str(tmp_path / "mine.jinja")).prompt_hash == hashes[2]


@pytest.mark.parametrize(
    ("schema", "key", "words"),
    [
        ({"type": "strin"}, ".type", "'strin'"),
        ({"type": "object", "properties": {"mood": {"enum": "glad"}}}, ".properties.mood.enum", "'glad'"),
        ({"properties": []}, ".properties", "[]"),
        ({"maxLength": -1}, ".maxLength", "-1"),
    ],
)
def test_a_schema_that_is_none_is_refused_before_anything_starts(tmp_path, schema, key, words):
    error = job_error(lambda: make_recipe(structured(tmp_path, schema)))
    assert error.key == f"sampling.structured_outputs.json{key}"
    assert words in error.cause and "JSON schema" in error.cause and len(str(error)) < 600


@pytest.mark.parametrize("recipe", ["template", "messages"])
def test_a_text_is_one_of_the_choices_and_is_whole(tmp_path, recipe):
    choosing = make_recipe(structured(tmp_path, ["yes", "no"], recipe, "choice"))
    assert choosing.finish("no") == ("no", "")
    assert [dropped(choosing, text) for text in ("maybe", "No", "")] == ["not_a_choice"] * 3
    matching = make_recipe(structured(tmp_path, "[0-9]+ years", recipe, "regex"))
    assert matching.finish("12 years") == ("12 years", "")
    assert dropped(matching, "12 ye", cut_off=True) == "cut_off"


def test_a_schema_is_part_of_the_hash_of_messages_too(tmp_path):
    recipes = [make_recipe(structured(tmp_path, schema, "messages")) for schema in (None, SCHEMA)]
    assert recipes[0].prompt_hash == Messages().prompt_hash != recipes[1].prompt_hash
    assert dropped(recipes[1], "Sure: {}") == "not_json"


@pytest.mark.parametrize("recipe", ["babylm_story", "alpaca_rewrite", "evaluation_prompts"])
def test_other_recipes_take_no_schema(tmp_path, recipe):
    error = job_error(lambda: make_recipe(structured(tmp_path, recipe=recipe)))
    assert error.key == "sampling.structured_outputs" and recipe in error.cause


def test_a_structured_recipe_travels_to_the_replicas(tmp_path):
    recipe = pickle.loads(pickle.dumps(make_recipe(structured(tmp_path))))
    assert text_of(recipe.render({"context": "It rains."}, SEED)) == "It rains."
    assert dropped(recipe, "no JSON") == "not_json"


# messages


def user(content="hello"):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    "messages",
    [
        [user()],
        [{"role": "system", "content": "be kind"}, user()],
        [user(), {"role": "assistant", "content": "hi"}, user("more")],
        [user(), {"role": "tool", "content": "42"}],
    ],
)
def test_messages_are_taken_as_they_stand(messages):
    prompt = Messages().render({"messages": messages, "id": 7}, SEED)
    assert prompt.messages == messages
    assert prompt.inputs == {"messages": messages, "id": 7}
    assert (prompt.emotion, prompt.emotions) == ("", [])


def test_further_keys_of_a_message_are_not_sent():
    prompt = Messages().render({"messages": [{**user(), "name": "x", "tool_calls": None}]}, SEED)
    assert prompt.messages == [user()]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "messages is not a list of chat messages"),
        ([], "messages is not a list of chat messages"),
        ("hello", "messages is not a list of chat messages"),
        (user(), "messages is not a list of chat messages"),
        (["hello"], "message 0 is str, not an object with role and content"),
        ([user(), None], "message 1 is NoneType, not an object with role and content"),
        ([{"content": "a"}], "message 0 has the role None, not one of system, user, assistant, tool"),
        ([{"role": "bot", "content": "a"}], "message 0 has the role 'bot', not one of system, user, assistant, tool"),
        ([{"role": ["user"], "content": "a"}], "message 0 has the role ['user'], not one of system"),
        ([{"role": "user"}], "message 0: content is null"),
        ([{"role": "user", "content": None}], "message 0: content is null"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 0 has a part of the type 'text'"),
        ([user(" ")], "message 0: content is blank"),
        ([user("\udc80")], "message 0 is not valid Unicode"),
        ([user(), {"role": "assistant", "content": "hi"}], "the last message is the assistant's"),
    ],
)
def test_messages_that_cannot_be_answered(messages, reason):
    assert row_error(Messages(), {"messages": messages}).startswith(reason)


def test_a_row_without_messages():
    assert row_error(Messages(), {}) == "messages is not a list of chat messages"


# Which recipe a job gets


def job(recipe, prompt=None):
    return parse_job(
        {"name": "a", "input": {"path": "x"}, "output": {"path": "y"}, "recipe": recipe, "prompt": prompt}, AugmentJob
    )


def test_the_table_of_recipes_has_what_a_job_file_takes():
    assert sorted(RECIPES) == sorted(get_args(AugmentJob.model_fields["recipe"].annotation))
    assert all(issubclass(resolve_name(path), JobRecipe) for path in RECIPES.values())


def test_the_recipe_of_a_job(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ context }}")
    assert make_recipe(job("babylm_story")).prompt_id == "babylm_story/p3"
    assert make_recipe(job("babylm_story", str(path))).prompt_id == "babylm_story/mine"
    assert make_recipe(job("babylm_story", "p2")).prompt_id == "babylm_story/p2"
    assert make_recipe(job("alpaca_rewrite")).prompt_id == "alpaca_rewrite/v3"
    assert make_recipe(job("alpaca_rewrite", "v1")).prompt_id == "alpaca_rewrite/v1"
    assert make_recipe(job("template", str(path))).prompt_id == "template/mine"
    assert make_recipe(job("template", "p3")).fields == ["context", "emotion", "examples"]
    assert make_recipe(job("messages")).prompt_id == "messages"


@pytest.mark.parametrize(
    ("recipe", "prompt"),
    [
        ("template", None),
        ("messages", "p3"),
        ("babylm_story", "p9"),
        ("babylm_story", "v3"),
        ("alpaca_rewrite", "v9"),
        ("alpaca_rewrite", "p3"),
    ],
)
def test_a_recipe_whose_prompt_does_not_fit(recipe, prompt):
    error = job_error(lambda: make_recipe(job(recipe, prompt)))
    assert (error.key, error.value) == ("prompt", prompt)


def test_a_babylm_prompt_with_an_unknown_variable_is_refused_at_once(tmp_path):
    (tmp_path / "own.jinja").write_text("{{ context }} {{ mood }}")
    with pytest.raises(JobError, match="uses mood"):
        BabylmStory(str(tmp_path / "own.jinja"))


def test_a_column_with_blanks_in_its_name_is_explained(tmp_path):
    path = tmp_path / "p.jinja"
    path.write_text("Calm this:\n\n{{ Complaint Text }}")
    with pytest.raises(JobError) as raised:
        JinjaPrompt(str(path))
    assert "input.columns: {Complaint_Text: Complaint Text}" in raised.value.remedy
