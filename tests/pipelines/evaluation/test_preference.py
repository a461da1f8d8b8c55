"""Preference: the questionnaire's page, read and answered in a real Chromium, and the tally of what comes back."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from eval.intervals import rate_of
from eval.preference import count_preferences
from eval.questionnaire import write_questionnaire
from pipelines.evaluation.preference import preference_tables
from pipelines.pages.tables import markdown
from schemas.errors import JobError, RunError
from schemas.questionnaire import TIE
from tests.support.chromium import CHROMIUM, Browser
from tests.support.evaluations import key_of, returned

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> {{ 7*7 }} <!-- & "
    "&lt;b&gt; \u2028 | \x1b[31m \u202egnp \ud800 ]]> `x`\n\n# heading"
)
SHOWN = HOSTILE.translate(dict.fromkeys(map(ord, "\x1b\u202e\ud800"), "\ufffd")).replace("\u2028", " ")
MODELS = ("zebra-13b", "okapi-7b", "gnu-1b")


def written(folder, prompts=4, models=MODELS, seed=0, hostile=False):
    answers = {model: [f"answer {i} in style {ord(model[0])}" for i in range(prompts)] for model in models}
    if hostile:
        answers[models[0]][0] = HOSTILE
    return write_questionnaire([f"prompt {i}" for i in range(prompts)], answers, str(folder), seed)


# The page


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.sources, self.policy = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action") or name.startswith("on")]
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, text):
        if self.tags and self.tags[-1] in ("script", "style") and text.strip():
            self.sources.append(text)


def test_hostile_texts_are_data_in_the_page(tmp_path):
    prompts, answers = [HOSTILE, "  "], {"a-model": [HOSTILE, "x"], "b-model": ["", "y"]}
    page = Page(Path(write_questionnaire(prompts, answers, str(tmp_path), 0, HOSTILE).page).read_text())
    assert page.tags.count("script") == 2 and "img" not in page.tags and page.links == []
    style, data, script = page.sources
    content = json.loads(data)
    assert [prompt["text"] for prompt in content["items"]] == [SHOWN, "  "]
    assert sorted(answer["text"] for answer in content["items"][0]["answers"]) == ["", SHOWN]
    for kind, source in (("script", script), ("style", style)):
        hashed = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{hashed}';" in page.policy
    assert "default-src 'none'" in page.policy and "unsafe" not in page.policy


def test_the_page_does_not_tell_whose_an_answer_is(tmp_path):
    questionnaire = written(tmp_path / "a", prompts=200)
    html = Path(questionnaire.page).read_text()
    assert not any(model in html for model in MODELS)
    content, key = json.loads(Page(html).sources[1]), key_of(questionnaire)
    places = dict.fromkeys(MODELS, 0)
    for prompt, of_key in zip(content["items"], key["prompts"], strict=True):
        assert {answer["id"] for answer in prompt["answers"]} == set(of_key["model_of"])
        for answer in prompt["answers"]:
            assert str(ord(of_key["model_of"][answer["id"]][0])) in answer["text"]
        places[of_key["model_of"][prompt["answers"][0]["id"]]] += 1
    assert all(35 < first < 100 for first in places.values())  # each is the first of three about as often
    assert len({each for prompt in key["prompts"] for each in prompt["model_of"]}) == 600
    # Who knows the models and the seed does not find the ids again: all of them depend on who wrote what.
    answers = {model: [f"by {model}"] for model in MODELS}
    pages = [write_questionnaire(["x"], texts, str(tmp_path / name), 0) for name, texts in (
        ("b", answers), ("c", {**answers, MODELS[0]: answers[MODELS[1]], MODELS[1]: answers[MODELS[0]]}))]  # fmt: skip
    first, turned = (set(key_of(page)["prompts"][0]["model_of"]) for page in pages)
    assert not first & turned


def test_the_same_questionnaire_is_written_again_and_no_other_in_its_place(tmp_path):
    first = written(tmp_path)
    page, key = Path(first.page).read_bytes(), Path(first.key).read_bytes()
    assert written(tmp_path) == first
    with pytest.raises(RunError, match="the key of another questionnaire"):
        written(tmp_path, seed=1)
    assert (Path(first.page).read_bytes(), Path(first.key).read_bytes()) == (page, key)


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([], {"a": [], "b": []}, "no prompt to ask about"),
        (["x"], {"a": ["1"]}, "models = a: a preference needs two models"),
        (["x", "y"], {"a": ["1", "2"], "b": ["1"]}, "models = b: has 1 responses to 2 prompts"),
        (["x"], {"a": ["1"], TIE: ["2"]}, "stands for no difference"),
    ],
)
def test_what_makes_no_questionnaire(tmp_path, prompts, answers, message):
    with pytest.raises(JobError, match=message):
        write_questionnaire(prompts, answers, str(tmp_path / "new"), 0)
    assert not (tmp_path / "new").exists()


# The tally


def test_choices_ties_blanks_and_reasons_are_counted(tmp_path):
    questionnaire = written(tmp_path / "q")
    a, b, c = MODELS
    files = [
        returned(questionnaire, tmp_path / "1.json", [a, a, TIE, None], {0: " warm\nand kind ", 3: "all bad"}),
        returned(questionnaire, tmp_path / "2.json", [a, b, b, TIE], {1: "<b>short</b>", 3: "alike"}, respondent=1),
    ]
    found = count_preferences(questionnaire.key, files)
    assert (found.respondents, found.prompts, found.choices, found.blanks) == (2, 4, 7, 1)
    assert {model: chosen.count for model, chosen in found.models.items()} == {a: 3, b: 2, c: 0}
    assert list(found.models) == [a, b, c] and found.ties.count == 2
    assert found.models[a].share == rate_of(3, 7)
    assert "Wilson: too few respondents (2)" in found.intervals
    assert [(pair.first, pair.second, pair.first_count, pair.second_count) for pair in found.pairs] == [
        (a, b, 3, 2), (a, c, 3, 0), (b, c, 2, 0),
    ]  # fmt: skip
    assert [(reason.prompt, reason.text) for reason in found.models[a].reasons] == [("prompt 0", "warm\nand kind")]
    assert [reason.text for reason in (*found.ties.reasons, *found.blank_reasons)] == ["alike", "all bad"]
    page = markdown(preference_tables(found))
    assert "| zebra-13b | 42.9 (15.8 to 75.0) | 3 |" in page and "| No difference | 28.6 (" in page
    assert "| zebra-13b | okapi-7b | 60.0 (" in page and "left blank, and not counted: 1." in page
    assert "| zebra-13b | warm and kind | prompt 0 |" in page and "\\<b\\>short" in page and "<b>" not in page
    assert json.loads(json.dumps(found.as_json()))["models"][a]["count"] == 3


def test_intervals_know_that_choices_of_one_respondent_are_alike(tmp_path):
    a, b, c = MODELS
    questionnaire = written(tmp_path / "q", prompts=20)
    alike = [returned(questionnaire, tmp_path / f"{i}.json", [a if i % 2 else b] * 20, respondent=i) for i in range(10)]
    found = count_preferences(questionnaire.key, alike)
    share, alone = found.models[a].share, rate_of(100, 200)
    assert share.rate == 0.5 and share.n == 200 and "10 respondents and 20 prompts" in found.intervals
    # Ten respondents of one mind each are ten cases, and not 200.
    assert share.low < 0.3 < alone.low and alone.high < 0.7 < share.high
    assert found.pairs[0].share.low < 0.3 and found.pairs[0].share.high > 0.7
    assert found.models[c].share == rate_of(0, 200)
    assert count_preferences(questionnaire.key, alike) == found
    # The same choices, but on ten prompts all choose one and on ten the other: the prompts are the cases.
    split = [returned(questionnaire, tmp_path / f"p{i}.json", [a, b] * 10, respondent=i) for i in range(10)]
    assert count_preferences(questionnaire.key, split).models[a].share.low < 0.35


def test_a_bad_file_is_named_with_what_is_wrong(tmp_path):
    a, b, _ = MODELS
    questionnaire, other = written(tmp_path / "q"), written(tmp_path / "other", seed=1)
    good = returned(questionnaire, tmp_path / "good.json", [a, b, a, None])
    content = json.loads(Path(good).read_text())

    def refused(match, *files, key=questionnaire.key):
        with pytest.raises(JobError, match=match) as caught:
            count_preferences(key, files)
        assert len(str(caught.value)) < 600

    def changed(file, **changes):
        return returned(questionnaire, tmp_path / file, [a, b, a, None], respondent=1, **changes)

    first, *rest = content["answers"]
    long = {**first, "reason": "x" * 2001}
    refused(r"absent\.json: cannot be read: .*\n  remedy: name", good, str(tmp_path / "absent.json"))
    refused("no file of answers is named")
    (tmp_path / "marked.json").write_text("\ufeff" + Path(good).read_text())
    assert count_preferences(questionnaire.key, [str(tmp_path / "marked.json")])
    (tmp_path / "cut.json").write_text(Path(good).read_text()[:-40])
    refused(r"cut\.json: not a file of answers.*Invalid JSON: EOF", good, str(tmp_path / "cut.json"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(r"deep\.json: not a file of answers", str(tmp_path / "deep.json"))
    refused(r"key\.json: not a file of answers", questionnaire.key)
    refused(r"good\.json: not the questionnaire\.key\.json", good, key=good)
    refused(r"format\.json: .*format: Input should be 1", changed("format.json", format=2))
    refused(r"extra\.json: .*name: Extra inputs", changed("extra.json", name="me"))
    refused(r"long\.json: .*answers\.0\.reason: .*at most 2000", changed("long.json", answers=[long, *rest]))
    refused(r"q2\.json: answers questionnaire \w{8}, and the key is", returned(other, tmp_path / "q2.json", [a] * 4))
    refused(r"again\.json: saved .* is of the same respondent as .*good\.json, saved 2026", good, returned(
        questionnaire, tmp_path / "again.json", [b] * 4))  # fmt: skip
    no_such = {**first, "choice": "zzz"}
    refused(r"u\.json: prompt p1: the choice 'zzz' is not one", changed("u.json", answers=[no_such, *rest]))
    refused(r"p\.json: has a prompt 'p9'", changed("p.json", answers=[{**first, "prompt": "p9"}, *rest]))
    refused(r"t\.json: has prompt p2 twice", changed("t.json", answers=[rest[0], *rest]))
    refused(r"l\.json: lacks prompt p1 and 0 more", changed("l.json", answers=rest))
    refused(r"s\.json: prompt p1: it was shown with", changed("s.json", answers=[{**first, "shown": []}, *rest]))
    blank = returned(questionnaire, tmp_path / "blank.json", [None] * 4)
    refused("nothing was chosen in any of the files", blank)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with Browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def texts(browser):
    return browser.value("[...document.querySelectorAll('.answer .text')].map((each) => each.textContent)")


def key_for(browser, model, models=MODELS):
    """The key of a model's answer on the page, by its text."""
    found = texts(browser)
    style = f"in style {ord(model[0])}"
    return str(1 + next(i for i, text in enumerate(found) if style in text or (text == SHOWN and model == models[0])))


def shown_prompt(browser):
    return browser.value("document.getElementById('prompt').textContent")


def visible(browser, element):
    return browser.value(f"document.getElementById('{element}').checkVisibility()")


def test_a_questionnaire_is_answered_by_keyboard_saved_and_tallied(browser, tmp_path):
    questionnaire = written(tmp_path, hostile=True)
    a, b, c = MODELS
    since = len(browser.events)
    browser.download_to(tmp_path)
    browser.open(f"file://{questionnaire.page}")
    browser.press("Enter")
    wanted = {"prompt 0": a, "prompt 1": a, "prompt 2": c, "prompt 3": None}
    seen = []
    for i in range(4):
        prompt = shown_prompt(browser)
        seen.append(prompt)
        assert browser.value("document.getElementById('where').textContent").startswith(f"Prompt {i + 1} of 4")
        if prompt == "prompt 0":
            assert SHOWN in texts(browser)
        if wanted[prompt]:
            browser.press(key_for(browser, b))  # and then thinks better of it
            browser.press(key_for(browser, wanted[prompt]))
        browser.press("r")
        browser.type(f"5 words, to {prompt}")
        browser.press("Escape")
        if i == 1:
            before = browser.value("[order, state]")
            closed = "(() => { sessionStorage.clear(); const found = restore(); keep(); return found; })()"
            assert browser.value(closed) == before[1]  # what another tab would find
            browser.reload()
            assert browser.value("[order, state]") == before and shown_prompt(browser) == prompt
            assert browser.value("document.getElementById('reason').value") == f"5 words, to {prompt}"
        browser.press("Enter")
    assert "answered 3 of 4" in browser.value("document.getElementById('answered').textContent")
    browser.press("Tab")
    assert browser.value("document.activeElement.id") == "save"
    browser.press("Enter")
    one = browser.downloaded(tmp_path / browser.value("fileName()"))
    assert visible(browser, "saved") and not visible(browser, "storage")

    # Somebody else on the same device: says that there is no difference, and goes back to change one.
    browser.value("document.getElementById('new').click()")
    browser.press("Enter")
    for _ in range(4):
        browser.press("0")
        browser.press("Enter")
    while shown_prompt(browser) != "prompt 1" or not visible(browser, "ask"):
        browser.press("Enter", shift=True)
    browser.press(key_for(browser, b))
    browser.value("document.getElementById('finish').click(); document.getElementById('save').click()")
    two = browser.downloaded(tmp_path / browser.value("fileName()"))

    found = count_preferences(questionnaire.key, [str(one), str(two)])
    assert {model: chosen.count for model, chosen in found.models.items()} == {a: 2, b: 1, c: 1}
    assert (found.ties.count, found.blanks) == (3, 1)
    assert sorted(reason.text for reason in found.models[a].reasons) == ["5 words, to prompt 0", "5 words, to prompt 1"]
    text_of = {prompt["prompt"]: prompt["text"] for prompt in key_of(questionnaire)["prompts"]}
    assert [text_of[answer["prompt"]] for answer in json.loads(one.read_text())["answers"]] == seen

    told = browser.events[since:]
    assert not [event for event in told if event[0] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    loaded = {each["request"]["url"] for method, each in told if method == "Network.requestWillBeSent"}
    assert {url for url in loaded if not url.startswith("blob:")} == {f"file://{questionnaire.page}"}
    assert browser.value("document.title") == "Questionnaire"


def test_orders_are_drawn_by_the_respondent_and_favour_none(browser, tmp_path):
    browser.open(f"file://{written(tmp_path).page}")
    assert browser.value(
        "JSON.stringify(orderFor('0'.repeat(31) + '1')) === JSON.stringify(orderFor('0'.repeat(31) + '1'))"
    )
    counts = browser.value("""(() => {
        const counts = {};
        for (let i = 0; i < 900; i++)
            orderFor(fresh().respondent).forEach((prompt, place) => {
                counts[`${prompt.id} ${place}`] = (counts[`${prompt.id} ${place}`] ?? 0) + 1;
                prompt.answers.forEach((answer, at) => {
                    counts[`${answer.id} ${at}`] = (counts[`${answer.id} ${at}`] ?? 0) + 1;
                });
            });
        return counts;
    })()""")
    prompts = [count for name, count in counts.items() if name.startswith("p")]
    answers = [count for name, count in counts.items() if not name.startswith("p")]
    # Six standard deviations (13 and 14) round what chance gives.
    assert len(prompts) == 16 and all(abs(count - 225) < 78 for count in prompts)
    assert len(answers) == 36 and all(abs(count - 300) < 85 for count in answers)


def test_a_browser_without_storage_says_so_and_saves(browser, tmp_path):
    questionnaire = written(tmp_path)
    blocked = "Object.defineProperty(window, '%s', {get() { throw new DOMException('no', 'SecurityError') }});"
    source = blocked % "localStorage" + blocked % "sessionStorage"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    browser.download_to(tmp_path)
    browser.open(f"file://{questionnaire.page}")
    assert visible(browser, "storage")
    for key in ("Enter", "1", "Enter", "0"):
        browser.press(key)
    browser.value("document.getElementById('finish').click(); document.getElementById('save').click()")
    found = count_preferences(questionnaire.key, [str(browser.downloaded(tmp_path / browser.value("fileName()")))])
    assert (found.choices, found.ties.count, found.blanks) == (2, 1, 2)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
