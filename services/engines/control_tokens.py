"""A model's control tokens, and how they are kept out of the text of messages.

A chat template marks turns by control tokens such as `<|im_end|>`. A tokenizer recognizes them anywhere in a text: a
row whose text contains one could end its own turn and continue as the system. Therefore every control token in the text
of a message is broken up by a blank after its first character.
"""

from typing import Any


def find_control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Returns the strings that a tokenizer always reads as one token.

    These are its special tokens, and those of its other added tokens that the chat template uses (`<think>`). Markers
    that are plain text to the tokenizer (`[INST]` of early Mistral models, `### Response:`) are not included.

    Args:
        tokenizer: a fast or slow tokenizer of transformers, or Mistral's own.
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    used = (token.content for token in added if token.special or token.content in template)
    return tuple(sorted({token.strip() for token in (*tokenizer.all_special_tokens, *used)} - {""}))


def break_control_tokens(text: str, tokens: tuple[str, ...]) -> str:
    """Returns the text without control tokens; a text that contains none is returned unchanged.

    A blank is put after the first character of each control token. A token of one character is removed.

    Args:
        tokens: from `find_control_tokens`.
    """
    # Repeated, because the rest of one broken token may be a part of another token.
    while contained := [token for token in tokens if token in text]:
        for token in contained:
            text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else "")
    return text


def break_nested_control_tokens(value: Any, tokens: tuple[str, ...]) -> Any:
    """Returns a JSON value, such as a message with its tool calls, without control tokens in any of its texts."""
    if isinstance(value, str):
        return break_control_tokens(value, tokens)
    if isinstance(value, dict):
        return {
            break_control_tokens(key, tokens): break_nested_control_tokens(item, tokens) for key, item in value.items()
        }
    return [break_nested_control_tokens(item, tokens) for item in value] if isinstance(value, list) else value
