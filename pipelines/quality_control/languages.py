"""Languages of texts, by the commonest words of each and by script. No model and no list of a library is needed.

The words are function words (articles, pronouns, prepositions, auxiliaries): in prose of people some 40% of all words,
and rarely words of another language.
"""

import unicodedata
from collections.abc import Sequence

_FUNCTION_WORDS = {
    "de": "der die das und ist nicht ein eine einen einem zu den mit von sich auf für dem des im als auch es er sie "
    "hat aus bei war wie aber oder wir ich sind haben wird nach noch nur wenn kann über vor mehr sein ihr "
    "ihre seine",
    "en": "the of and to a in is that it was for on are as with his they be at have this from or had by but not "
    "what all were we when your can there an each which she do how their if will up about out then them these "
    "so some her would like him into has more no than been who its my over i you he me our could should one "
    "said well let come go get just any very am did went here",
    "es": "el la los las de del y en que un una es se no por con para su lo como más pero sus le ya o este porque "
    "esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos era fue son",
    "fr": "le la les de des du et est un une que qui dans pour pas sur ce il elle je ne se au aux avec son sa ses "
    "plus par mais nous vous ils cette tout être fait ou leur comme on était sont ont d'un d'une c'est qu'il",
    "it": "il lo la gli le di del della dei e è un una che in per non si con da come sono ma anche più al alla nel "
    "nella questo ha mi ti ci se o era suo sua loro dal delle degli quando",
    "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als maar bij nog uit door naar hij ze "
    "zij wij dit deze wordt werd heeft ik je was haar hun geen meer",
    "pl": "i w na z do nie to się jest że o jak za po co tak ale od dla przez czy jego jej są był była ich przed "
    "już tylko",
    "pt": "o a os as de do da dos das e em no na que um uma é se não por com para seu sua mais como mas foi ao ele "
    "ela ou ser quando muito já também só pelo pela era são isso",
    "sv": "och i att det som en på är av för med den till inte har de om ett han hon var jag men sig från vi så kan "
    "när ska eller hade där nu efter vid",
}  # fmt: skip
_WORDS = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
# Numbers of different words: texts with fewer have too few function words to tell languages apart by them.
_MIN_WORDS = 10
# Smallest share of another language's function words that shows it.
_MIN_SHARE = 0.15
# Languages that are not in the table are noticed by what is missing; a list of names or things misses them too.
_MIN_WORDS_WITHOUT_OWN, _MIN_OWN_SHARE = 40, 0.03


def is_in_other_language(text: str, text_words: Sequence[str], language: str) -> bool:
    """Returns whether a text is plainly in another language, or for the greater part in another script.

    Args:
        text: the text.
        text_words: its words in lower case, without punctuation.
        language: one of `schemas.quality.LANGUAGES`, which are all written in Latin letters.
    """
    letters = [character for character in text if character.isalpha()]
    latin = sum(character.isascii() or unicodedata.name(character, "").startswith("LATIN") for character in letters)
    if latin < len(letters) / 2:
        return True
    plain = [word.replace("\u2019", "'") for word in text_words if not word.isdecimal()]
    different = len(set(plain))
    if different < _MIN_WORDS:
        return False
    shares = {each: sum(word in common for word in plain) / len(plain) for each, common in _WORDS.items()}
    own = shares.pop(language)
    other = max(shares.values())
    return (other > own and other >= _MIN_SHARE) or (different >= _MIN_WORDS_WITHOUT_OWN and own < _MIN_OWN_SHARE)
