"""Which rows of an instruction corpus are not worth a rewrite, each refused by the name of a rule.

    empty_output     there is no answer
    nooutput         the answer says that there is none: <nooutput>
    useless_output   no words, "N/A", or a model that says it cannot
    other_task       another instruction, or the mark of a missing input, ran into the answer
    url              the instruction or the input is an address, which a model cannot open
    unseen_image     they speak of a picture, a video or a recording that is not there
    broken_encoding  a text was decoded wrongly, or has control characters

What looks alike and is fine stays: an address in an answer, a picture that the input describes, "no output voltage".
"""

import re

# Marks of an empty input; the input may have more lines, which are kept.
_NO_INPUT = re.compile(r"<\s*no\s*input\s*>|\A\s*(?:no input(?: \w+)?|n/?a|none)\.?\s*\Z", re.IGNORECASE)

_NO_OUTPUT = re.compile(r"<\s*no\s*output\s*>|\bnooutput\b|\A\W*no output\W*\Z", re.IGNORECASE)
_USELESS = re.compile(
    r"\A[\s!-/:-@\[-`{-~]*\Z"  # nothing but punctuation
    r"|\A\W*(?:n/?a|none|null|nil|nan|not (?:applicable|available))\W*\Z"
    r"|\bas an ai (?:language )?(?:model|assistant)\W+i(?:'m| am)? ?(?:cannot|can't|can not|do not|don't|not |unable )"
    r"|\A(?:i'?m sorry|i am sorry|sorry|unfortunately)\W+(?:but )?(?:i |i'm |i am )"
    r"(?:cannot|can't|can not|unable to|not able to) "
    r"(?:assist|browse|fulfil|generate|view)",
    re.IGNORECASE,
)
# Within its line: over line ends, a text of nothing but lines would take the square of their number.
_OTHER_TASK = re.compile(r"<\s*no\s*input\s*>|^[^\w\n]*(?:\d+[^\w\n]+)?instruction\s*:", re.IGNORECASE | re.MULTILINE)
_URL = re.compile(r"\bhttps?://\S|\bwww\.\w", re.IGNORECASE)

_PICTURE = r"(?:image|picture|photo(?:graph)?|painting|screenshot|diagram|video|audio(?: clip)?|recording)s?"
# "this sunset photo", "the attached picture"; not "this video game". With an input, that may describe it in words.
_POINTED_AT = re.compile(
    r"\b(?:this|these|attached|(?:the|an?) (?:following|given|attached|provided|above|below)) (?:\w+ ){0,3}"
    rf"{_PICTURE}\b(?! (?:game|book)s?\b)",
    re.IGNORECASE,
)
# What stands in the place of one: "(image provided)"; or all of the input is "[photo]", "Picture:", "cat.jpg".
_PLACEHOLDER = re.compile(
    rf"[\[(](?:see |insert )?{_PICTURE} (?:provided|attached|omitted|here)[\])]"
    rf"|\A(?:[<\[(](?:insert )?{_PICTURE}(?: here)?[>\])]|{_PICTURE}:)\Z"
    r"|\A\S+\.(?:jpe?g|png|gif|bmp|webp|svg|mp[34]|wav)\Z",
    re.IGNORECASE,
)

# A replacement character, UTF-8 read as Latin-1 or Windows-1252 (as \u00c3\u00a9 for \u00e9), control characters.
_BROKEN = re.compile(
    "\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac|\u00f0\u0178|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def without_markers(given: str) -> str:
    """The input without `<noinput>`, "N/A" and the like."""
    return _NO_INPUT.sub("", given).strip()


def fault_of(instruction: str, given: str, output: str) -> str:
    """The name of the first rule that refuses the row; "" where none does.

    Args:
        instruction: what was asked.
        given: the input, without its markers.
        output: the answer; "" where there is none.
    """
    asked = f"{instruction}\n{given}"
    refusals = {
        "empty_output": not output,
        "nooutput": _NO_OUTPUT.search(output),
        "useless_output": _USELESS.search(output),
        "other_task": _OTHER_TASK.search(output),
        "url": _URL.search(asked),
        "unseen_image": _PLACEHOLDER.search(given) or (not given and _POINTED_AT.search(instruction)),
        "broken_encoding": _BROKEN.search(f"{asked}\n{output}"),
    }
    return next((rule for rule, refuses in refusals.items() if refuses), "")
