"""Rules that reject rows of an instruction corpus that are not worth a rewrite.

    empty_output     there is no answer
    nooutput         the answer says that there is none: <nooutput>
    useless_output   the answer has no words, is "N/A", or says that the model cannot answer
    other_task       the answer contains another instruction, or the mark of a missing input
    url              the instruction or the input has a web address, which a model cannot open
    unseen_image     the instruction or the input refers to a picture, a video or a recording that is missing
    broken_encoding  a text was decoded wrongly, or has control characters

Similar rows that are good stay: a web address in an answer, a picture that the input describes, "no output voltage".
"""

import re

# Marks of an empty input. The input may have more lines, which are kept.
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
# A match stays within its line: across lines, a text of blank lines would take the square of their number.
_OTHER_TASK = re.compile(r"<\s*no\s*input\s*>|^[^\w\n]*(?:\d+[^\w\n]+)?instruction\s*:", re.IGNORECASE | re.MULTILINE)
_URL = re.compile(r"\bhttps?://\S|\bwww\.\w", re.IGNORECASE)

_PICTURE = r"(?:image|picture|photo(?:graph)?|painting|screenshot|diagram|video|audio(?: clip)?|recording)s?"
# "this sunset photo", "the attached picture"; not "this video game". An input may describe the picture.
_POINTED_AT = re.compile(
    r"\b(?:this|these|attached|(?:the|an?) (?:following|given|attached|provided|above|below)) (?:\w+ ){0,3}"
    rf"{_PICTURE}\b(?! (?:game|book)s?\b)",
    re.IGNORECASE,
)
# Text in place of a picture: "(image provided)"; or an input that is nothing but "[photo]", "Picture:" or "cat.jpg".
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


def remove_empty_markers(input_text: str) -> str:
    """Returns an input without the marks of an empty one: `<noinput>`, "N/A" and the like."""
    return _NO_INPUT.sub("", input_text).strip()


def rejecting_rule(instruction: str, input_text: str, output: str) -> str:
    """Returns the name of the first rule that rejects a row; "" if none does.

    Args:
        instruction: the row's instruction.
        input_text: the row's input, without the marks of an empty one.
        output: the row's answer; "" if it has none.
    """
    question = f"{instruction}\n{input_text}"
    matches = {
        "empty_output": not output,
        "nooutput": _NO_OUTPUT.search(output),
        "useless_output": _USELESS.search(output),
        "other_task": _OTHER_TASK.search(output),
        "url": _URL.search(question),
        "unseen_image": _PLACEHOLDER.search(input_text) or (not input_text and _POINTED_AT.search(instruction)),
        "broken_encoding": _BROKEN.search(f"{question}\n{output}"),
    }
    return next((rule for rule, match in matches.items() if match), "")
