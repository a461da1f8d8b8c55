"""What models say round the text that they were asked for: labels, announcements, closing remarks, quotation marks.

Only what is plainly not the text goes: "Here is the rewritten answer:" does, "Here are five breakfasts:" stays.
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


def without_talk(text: str) -> tuple[str, str]:
    """The text that was asked for, and what was cut off round it, in which `[...]` stands for that text.

    Args:
        text: what the model wrote.

    Returns:
        ("The sky is blue.", "Sure, here is the answer: [...]"); the second is "" where nothing was cut off.
    """
    whole = kept = text.strip()
    while (shorter := _shortened(kept)) != kept:
        kept = shorter
    if kept in ("", whole):
        return kept, ""
    before, _, after = whole.partition(kept)
    return kept, f"{before}[...]{after}"


def _shortened(text: str) -> str:
    text = _AFTER.sub("", _BEFORE.sub("", text)).strip()
    quoted = _QUOTED.match(text)
    return (quoted[1] or quoted[2] or "").strip() if quoted else text
