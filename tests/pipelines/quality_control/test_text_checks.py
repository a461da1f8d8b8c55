"""Rules of the section `quality`: what each rejects, and what it must not reject."""

import pickle
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import get_args

import pytest

from pipelines.quality_control import quality_rules
from pipelines.quality_control.emotion_words import names_emotion
from pipelines.quality_control.languages import is_in_other_language
from pipelines.quality_control.quality_rules import QualityRules
from pipelines.quality_control.text_checks import (
    copied_share,
    is_unsuitable,
    lost_names,
    lost_numbers,
    refuses,
    repetition,
    words,
)
from schemas.augment import AugmentJob
from schemas.emotions import EMOTIONS
from schemas.errors import JobError
from schemas.job_parsing import parse_job
from schemas.quality import Language, Quality
from schemas.rows import Prompt, RowError, WorkRow
from services.engines.engine import Generation
from services.replicas.row_records import VariantSettings, finished_record


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, but I can\u2019t assist with this request.", True),
        ("Unfortunately, I am unable to answer the question.", True),
        ("I am unable to answer the question as the emotion is not given.", True),
        ("As an AI language model, I do not have feelings.", True),
        ("I am an AI language model and do not have personal experiences.", True),
        ("I'm just an AI, so I cannot taste it.", True),
        ("I can't help but feel a sense of admiration for you, Mike.", False),
        ("I'm sorry that I broke your cup, said the fox.", False),
        ("Sorry! The shop is closed, and nobody can help you.", False),
        ("I cannot sleep, whispered Lily.", False),
        ("The artificial intelligence in the film writes poems.", False),
        ("I'm sorry for any confusion, but as a text-based AI, I'm unable to open links.", True),
        ("I'm sorry for your loss, but as a chatbot, I do not have the ability to delete files.", True),
        ("\"I'm sorry, but I can't help with that.\"", True),
        ("\"I'm sorry, but I can't help you,\" said Tom, and closed the door.", False),
        ("\u201cI cannot help you,\u201d said the wizard.", False),
        ("I'm sorry to say it, but I can't help but call it pizza.", False),
        ("I am an AI engineer, and I am a language teacher too.", False),
    ],
)
def test_refusals(text, is_refusal):
    assert refuses(text) is is_refusal


SENTENCES = {
    "de": "Der kleine Hund läuft über die Wiese und freut sich, weil die Sonne nach dem Regen wieder scheint.",
    "en": "The little dog runs across the meadow and is glad, because the sun shines again after the rain.",
    "es": "El pequeño perro corre por el prado y se alegra porque el sol brilla de nuevo después de la lluvia.",
    "fr": "Le petit chien court dans le pré et il est content, parce que le soleil brille après la pluie.",
    "it": "Il piccolo cane corre per il prato ed è contento, perché il sole splende di nuovo dopo la pioggia.",
    "nl": "De kleine hond rent over het gras en is blij, omdat de zon na de regen weer aan de hemel schijnt.",
    "pl": "Mały pies biegnie przez łąkę i jest zadowolony, bo po deszczu znowu świeci słońce, a on to lubi.",
    "pt": "O pequeno cão corre pelo prado e fica contente, porque o sol brilha de novo depois da chuva.",
    "sv": "Den lilla hunden springer över ängen och är glad, för att solen skiner igen efter regnet.",
}


FINNISH = (
    "Pieni koira juoksee niityn poikki ja iloitsee, koska aurinko paistaa taas pitkän sateen jälkeen. Kissa istuu "
    "ikkunalla ja katsoo lintuja, jotka laulavat pihan vanhassa omenapuussa. Lapset tulevat koulusta kotiin, syövät "
    "lämmintä keittoa ja kertovat äidille, mitä opettaja näytti heille tänään metsässä. Illalla koko perhe lukee "
    "yhdessä kirjaa merestä, laivoista ja kaukaisista saarista."
)


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_in_its_own_language_and_in_no_other(language):
    assert set(SENTENCES) == set(get_args(Language))
    text = SENTENCES[language]
    wrong = {other for other in SENTENCES if is_in_other_language(text, words(text), other)}
    assert wrong == set(SENTENCES) - {language}


@pytest.mark.parametrize(
    ("text", "is_other"),
    [
        ("Маленькая собака бежит по лугу.", True),
        ("小さな犬が走る。", True),
        (FINNISH, True),
        (
            "Pieni koira juoksee niityn poikki ja iloitsee, koska aurinko paistaa taas sateen jälkeen.",
            False,
        ),  # too short
        ("`Nurse!\n\n" * 40, False),
        ("", False),
        ("Bonjour, mon ami!", False),  # too short
        ("Carrots, onions, potatoes, leeks, celery, butter, pepper, salt, cream, thyme, parsley and bread.", False),
        ("She said “Guten Morgen, wie geht es dir?” and laughed, for it was all the German that she knew.", False),
    ],
)
def test_other_languages_than_english(text, is_other):
    assert is_in_other_language(text, words(text), "en") is is_other


@pytest.mark.parametrize(
    ("text", "is_unfit"),
    [
        ("The hunters shot, and murdered the deer.", True),
        ("Damn it!", True),
        ("The skilled class passed the shell and the heroine said hello in Essex.", False),
        ("She sat beside the casino.", True),
    ],
)
def test_words_that_are_not_for_children_are_whole_words(text, is_unfit):
    assert is_unsuitable(text) is is_unfit


def job_with_check(folder, source):
    (folder / "my_check.py").write_text(source)
    return Quality(check=str(folder / "my_check.py"), allow_code=True)


def test_a_check_of_ones_own(tmp_path):
    body = "    calls.append(1)\n    return inputs['bad'] if len(calls) > 1 else ''\n"
    source = f"calls = []\ndef check(text, inputs):\n{body}"
    rules = pickle.loads(pickle.dumps(QualityRules.of(job_with_check(tmp_path, source))))
    (tmp_path / "my_check.py").unlink()  # its source travels with the rules
    prompt = Prompt([], {"bad": " too\ndull "})
    assert rules("text", prompt) == "" and rules("text", prompt) == "check: too\\ndull"
    with pytest.raises(RowError, match=r"quality.check .*my_check.py raised KeyError: 'bad'"):
        rules("text", Prompt([], {}))
    with pytest.raises(RowError, match="returned int, not a text"):
        rules("text", Prompt([], {"bad": 3}))
    changed = QualityRules.of(job_with_check(tmp_path, source + "\n"))
    assert changed.facts().keys() == rules.facts().keys() == {"check_hash"} and changed.facts() != rules.facts()


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (None, "cannot be read: No such file"),
        ("def check(text, inputs)\n", "SyntaxError in line 1"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("def chek(text, inputs): ...", "the file has no function `check`"),
        ("check = 3", "the file has no function `check`"),
        ("def check(text): ...", "TypeError: too many positional arguments"),
    ],
)
def test_a_check_that_cannot_be_used_is_one_error_before_the_job_starts(tmp_path, source, cause):
    quality = job_with_check(tmp_path, source or "")
    if source is None:
        (tmp_path / "my_check.py").unlink()
    with pytest.raises(JobError, match=r"quality.check = .*my_check.py: .*") as error:
        QualityRules.of(quality)
    assert cause in error.value.cause


def test_a_check_that_fails_makes_the_row_an_error_that_keeps_its_text(tmp_path):
    rules = QualityRules.of(job_with_check(tmp_path, "def check(text, inputs):\n    return 1 / 0\n"))
    settings = VariantSettings(SimpleNamespace(finish=lambda text, cut_off: (text, "")), {}, 0, "fake", check=rules)
    settings.recipe.prompt_id, settings.recipe.prompt_hash = "template/x", "h"
    generation = Generation("a text", "stop", 3, 0, 2, datetime.now(UTC), 0.1)
    record = finished_record(WorkRow(0, 0, "a.csv", 0, 0, {}), settings, 1, Prompt([], {}), generation)
    assert (record["state"], record["text"], record["output_tokens"]) == ("error", "a text", 2)
    assert record["reason"].endswith("my_check.py raised ZeroDivisionError: division by zero")


def test_versions_of_rules_above_one_are_part_of_the_identity(monkeypatch):
    rules = QualityRules.of(Quality(reject_meta_talk=True, max_words=9))
    assert rules.facts() == {} and QualityRules.of(Quality(max_tries=2)) is None
    monkeypatch.setitem(quality_rules.RULE_VERSIONS, "reject_meta_talk", 2)
    monkeypatch.setitem(quality_rules.RULE_VERSIONS, "keep_names", 3)
    assert rules.facts() == {"rule_versions": "reject_meta_talk 2"}
    assert quality_rules.RULE_VERSIONS.keys() <= Quality.model_fields.keys()


def test_every_emotion_is_found_in_its_own_forms_and_in_no_other_words():
    assert all(names_emotion(f"It was {emotion} indeed.", emotion) for emotion in EMOTIONS if emotion != "neutral")
    for text, emotion in (
        ("She was overjoyed.", "joy"),
        ("PROUDLY he sang", "pride"),
        ("I realised it", "realization"),
    ):
        assert names_emotion(text, emotion)
    for text, emotion in (
        ("A saddle and a lovage leaf.", "sadness"), ("A glove lay there.", "love"), ("neutral", "neutral"),
        ("Any text", ""), ("The dangerous road", "anger"),
    ):  # fmt: skip
        assert not names_emotion(text, emotion)


def test_shares():
    assert repetition("no no no no no no no no") > 0.7 and repetition("Each word here stands only once in it.") == 0
    source = "Write it anew: the cat sat on the mat and slept all day"
    assert copied_share("The cat sat on the mat and slept all day!", source) == 1
    assert copied_share("A dog ran over the hill and barked at noon.", source) == 0
    assert copied_share("too short", source) == 0


def test_numbers_and_names_that_are_lost():
    assert lost_numbers("It has 1000 parts and five doors.", "It has 1,000 parts and 5 doors, 2.5 m wide.") == ["2.5"]
    assert lost_numbers("none", "no number") == []
    assert lost_numbers("Eat well, and sleep.", "1. Eat well. 2. Sleep 8 hours.\n3) Rest in 2026. 4. Go") == [
        "8",
        "2026",
    ]
    assert lost_numbers("none", "It cost 1. Then 5.") == ["1", "5"]
    assert lost_names("berlin is large.", "We went to Berlin, with Anna. The train was late.") == ["Anna"]
    assert lost_names("Tom\u2019s hat and Anna's cup.", "So Tom met Anna, with Ben.") == ["Ben"]
    assert lost_names("none", "Favorite Color: blue. With love, [Your Name], and for Anna: Berlin") == ["Anna"]


@pytest.mark.parametrize(
    ("quality", "text", "rule"),
    [
        ({"min_words": 3}, "Two words", "too_few_words"),
        ({"max_words": 1}, "Two words", "too_many_words"),
        ({"reject_refusals": True}, "I'm sorry, I cannot write that.", "refusal"),
        ({"reject_meta_talk": True}, "Rewritten Output: The sky is blue.", "meta_talk"),
        ({"reject_meta_talk": True}, '"The sky is blue."', ""),
        ({"reject_emotion_word": True}, "What a joyful day!", "emotion_word"),
        ({"max_repetition": 0.3}, "so it goes " * 9, "repetition"),
        ({"max_copied": 0.5}, "Tell Anna about the 12 blue cups.", "copied"),
        ({"keep_numbers": True}, "Blue cups for Anna.", "numbers_lost"),
        ({"keep_names": True}, "All 12 cups are blue.", "names_lost"),
        ({"keep_names": True, "source": ["topic"]}, "All 12 cups are blue.", ""),
        (
            {"language": "en"},
            "Die Tassen sind blau und stehen auf dem Tisch, und Anna ist da.",
            "wrong_language",
        ),
        ({"reject_unsuitable": True}, "He took a Pistol.", "unsuitable"),
    ],
)
def test_each_rule_has_its_name(quality, text, rule):
    prompt = Prompt(
        [{"role": "user", "content": "Tell Anna about the 12 blue cups."}],
        {"text": "This is for Anna: 12 cups", "topic": "cups", "n": 3}, "joy",
    )  # fmt: skip
    rules = pickle.loads(pickle.dumps(QualityRules(Quality(**quality))))
    assert rules(text, prompt) == rule


@pytest.mark.parametrize(
    ("quality", "cause"),
    [
        ({"min_words": 5, "max_words": 3}, "min_words is larger"),
        ({"source": ["text"]}, "no use"),
        ({"max_copied": 1.5}, "less than 1"),
        ({"check": "c.py"}, "quality.check = c.py is code, which runs only with quality.allow_code: true"),
        ({"allow_code": True}, "no use without quality.check"),
        ({"language": "xx"}, "quality.language = xx"),
    ],
)
def test_rules_that_contradict_themselves_are_refused(quality, cause):
    job = {"name": "q", "input": "a.csv", "recipe": "template", "output": "r", "quality": quality}
    with pytest.raises(JobError, match=cause):
        parse_job(job, AugmentJob)
