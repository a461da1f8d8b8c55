"""A model's control tokens, and text that holds none of them.

A chat template marks whose turn it is by tokens such as `<|im_end|>`, and a tokenizer takes them wherever they stand:
a row whose text holds one could end its own turn and speak as the system. So in the text of messages each is broken by
a blank after its first character.
"""

from typing import Any


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """What a tokenizer reads as one token of its own accord: its special tokens, and those among its other added ones
    that the chat template uses (`<think>`).

    Markers that are no tokens to the tokenizer (`[INST]` of early Mistral models, `### Response:`) are text to it, and
    are not found.

    Args:
        tokenizer: a fast or slow one of transformers, or Mistral's own.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    found = {*tokenizer.all_special_tokens, *(t.content for t in added if t.special or t.content in template)}
    return tuple(sorted({token.strip() for token in found} - {""}))


def without_control(text: str, tokens: tuple[str, ...]) -> str:
    """The same text where it holds none of the tokens; else each one broken by a blank, or gone if it is one character.

    Again and again, for what is left of one token may be a part of another.
    """
    while found := [token for token in tokens if token in text]:
        for token in found:
            text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else "")
    return text
