"""Evaluations in the test's own process, and answers to a questionnaire."""

import json
from pathlib import Path

from services.models.causal_lm import load_causal_model


def in_this_process(session, name, work, units):
    """The pool without its actors, whose start takes most of the time; the slow test below has them."""
    loaded = load_causal_model(session.models[name][0].model())
    for number, unit in enumerate(units):
        yield number, work(loaded, unit)


def key_of(questionnaire):
    return json.loads(Path(questionnaire.key).read_text())


def returned(questionnaire, path, choices, reasons=None, respondent=0, **changes):
    """A file of answers: of each prompt the model chosen, TIE or None."""
    answers = []
    for i, (prompt, choice) in enumerate(zip(key_of(questionnaire)["prompts"], choices, strict=True)):
        id_of = {model: each for each, model in prompt["model_of"].items()}
        answers.append({"prompt": prompt["prompt"], "shown": list(prompt["model_of"]),
                        "choice": id_of.get(choice, choice), "reason": (reasons or {}).get(i, "")})  # fmt: skip
    file = {"format": 1, "questionnaire": questionnaire.fingerprint, "respondent": f"{respondent:032x}",
            "saved_at": "2026-01-01T00:00:00.000Z", "answers": answers, **changes}  # fmt: skip
    path.write_text(json.dumps(file))
    return str(path)
