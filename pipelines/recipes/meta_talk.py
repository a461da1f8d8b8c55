"""Meta talk: labels, announcements, closing remarks and quotation marks that models write around a text.

Only phrases that are plainly not the text are cut off: "Here is the rewritten answer:" is, "Here are five breakfasts:"
is not.
"""

import re

from schemas.emotions import EMOTIONS

# "Rewritten Output (Relief):", "New answer:", and the emotion itself, as in "Relief:".
_LABEL = (
    r"(?:(?:re-?written|revised|modified|improved|new|final) )?(?:output|answer|response|version|text|paragraph)"
    r"(?: ?\([^()\n]{0,40}\))?"
    rf"|{'|'.join(EMOTIONS)}"
)
_EAGER = r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|great)[,.!]* "
_HERE = r"(?:here(?:'s|\u2019s| is| are)|below is)\b"
_REWRITE = r"\b(?:re-?writ\w+|reword\w+|revis\w+|version|output|answer|response)\b"
# "Sure, here is ...:", "Here's a rewritten version ...:", "I have rewritten the answer ...:"
_ANNOUNCEMENT = (
    rf"{_EAGER}{_HERE}[^\n:]{{0,120}}|{_HERE}[^\n:]{{0,80}}?{_REWRITE}[^\n:]{{0,80}}"
    rf"|(?:{_EAGER})?i(?:'ve|\u2019ve| have) (?:re-?written|reworded|revised) (?:the|your|it)\b[^\n:]{{0,80}}"
)
_BEFORE = re.compile(rf"\A(?:[*_#]*\s*(?:{_LABEL}|{_ANNOUNCEMENT})[*_]*\s*:[*_]*|=>)\s*", re.IGNORECASE)
# A last line such as "(Note: I kept the tone joyful.)", "Word count: 41", "Let me know if ...".
_AFTER = re.compile(
    r"\n[^\S\n]*[*_(\[]*(?:(?:note|explanation)\b[^\n]*\b(?:re-?writ\w+|emotion|tone|original|output)\b|word count\b"
    r"|i hope this\b|let me know if\b|this (?:rewritten|revised) )[^\n]*\Z",
    re.IGNORECASE,
)
_QUOTED = re.compile('\\A(?:"([^"]*)"|\u201c([^\u201c\u201d]*)\u201d)\\Z')


def strip_meta_talk(text: str) -> tuple[str, str]:
    """Cuts off the talk around a text.

    Args:
        text: response of the model.

    Returns:
        The text that was asked for, and the talk, in which `[...]` stands for that text: ("The sky is blue.", "Sure,
        here is the answer: [...]"). The talk is "" if nothing was cut off.
    """
    response = kept = text.strip()
    # Talk comes in layers: an announcement before a label before a quoted text.
    while (shorter := _strip_one_layer(kept)) != kept:
        kept = shorter
    if kept in ("", response):
        return kept, ""
    before, _, after = response.partition(kept)
    return kept, f"{before}[...]{after}"


def _strip_one_layer(text: str) -> str:
    text = _AFTER.sub("", _BEFORE.sub("", text)).strip()
    quoted = _QUOTED.match(text)
    return (quoted[1] or quoted[2] or "").strip() if quoted else text
