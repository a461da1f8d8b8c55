"""Words as the paper's Table 2 counts them: nltk's tokens in lower case, without its English stop words.

nltk and its data are no dependencies: whoever has them can count so.
"""

from collections.abc import Callable, Sequence

from schemas.errors import RunError
from schemas.text import shorten

_OPTION, _NLTK = "--words", "nltk"
_DOWNLOAD = "python -m nltk.downloader punkt_tab stopwords"


def nltk_words() -> Callable[[Sequence[str]], list[list[str]]]:
    """Returns a function that splits texts into words.

    Raises:
        RunError: nltk is not installed, or its data are not there.
    """
    try:
        from nltk import word_tokenize
        from nltk.corpus import stopwords
    except ImportError:
        remedy = f"install it (pip install nltk), then: {_DOWNLOAD}"
        raise RunError(_OPTION, _NLTK, "nltk is not installed", remedy) from None
    try:
        left_out = frozenset(stopwords.words("english"))
        word_tokenize("One word. And another.")
    except LookupError as error:
        named = next((line.strip() for line in str(error).splitlines() if "not found" in line), "a file is missing")
        cause = f"nltk's data are not there: {shorten(named)}"
        remedy = f"get them with `{_DOWNLOAD}`, or set NLTK_DATA to their folder"
        raise RunError(_OPTION, _NLTK, cause, remedy) from None

    def split(texts: Sequence[str]) -> list[list[str]]:
        return [[word for word in map(str.lower, word_tokenize(text)) if word not in left_out] for text in texts]

    return split
