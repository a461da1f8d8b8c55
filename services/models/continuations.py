"""Log-likelihoods of the ends of token sequences, given their beginnings; and of the options of a question.

An option is scored as the answer to its question. A model with a chat template gets the question as the message of a
user, and the option as the beginning of its response. Any other model gets the question and `Answer:`, and the option
after a blank.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from schemas.errors import EngineError
from schemas.text import shorten
from services.models.chat_templates import bound_chat_templates
from services.models.diverged import refuse_diverged
from services.models.prefix_trees import continuation_log_likelihoods, supports_prefix_trees

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of a batch, padding included. Their logits take 200 MB for a vocabulary of 50,000 tokens.
_BATCH_TOKENS = 1024
_IGNORED_TARGET = -100
_ANSWER = "\nAnswer:"


@dataclass(frozen=True, slots=True)
class OptionsQuestion:
    """A question, and the texts that may answer it."""

    prompt: str
    options: Sequence[str]


def option_log_likelihoods(
    model: "PreTrainedModel", tokenizer: Any, questions: Sequence[OptionsQuestion]
) -> list[np.ndarray]:
    """Computes the log-likelihood of each option as the answer to its question, summed over the option's tokens.

    Returns:
        Log-likelihoods in nats, for each question a float64 array of shape (options,).

    Raises:
        EngineError: a question with its option is longer than the model's context, the chat template fails, or the
            model has diverged.
    """
    sequences, starts = [], []
    for question in questions:
        beginning, blank = _question_ids(tokenizer, question.prompt)
        for option in question.options:
            sequences.append([*beginning, *tokenizer(f"{blank}{option}", add_special_tokens=False)["input_ids"]])
            starts.append(len(beginning))
    refuse_long_sequences(model, tokenizer, sequences, "an option with its question", "leave this question out")
    score = continuation_log_likelihoods if supports_prefix_trees(model) else batch_log_likelihoods
    scores = score(model, sequences, starts)
    refuse_diverged(scores, tokenizer.name_or_path, "log-likelihoods of options")
    return np.split(scores, np.cumsum([len(question.options) for question in questions])[:-1])


def _question_ids(tokenizer: Any, prompt: str) -> tuple[list[int], str]:
    """Returns the token ids of a question, and the characters between it and an option."""
    if not tokenizer.chat_template:
        return [begin_token(tokenizer), *tokenizer(f"{prompt}{_ANSWER}", add_special_tokens=False)["input_ids"]], " "
    bound_chat_templates()
    try:
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        cause = f"its chat template fails on a question: {shorten(str(error))}"
        raise EngineError("model.id", tokenizer.name_or_path, cause, "correct the chat template") from None
    # The template writes the begin-of-text token itself, where the model has one.
    return tokenizer(text, add_special_tokens=False)["input_ids"], ""


def begin_token(tokenizer: Any) -> int:
    """Returns the id of the begin-of-text token, or of the end-of-text token if there is no other."""
    token: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return token


def refuse_long_sequences(
    model: "PreTrainedModel", tokenizer: Any, sequences: Sequence[Sequence[int]], what: str, remedy: str
) -> None:
    """Refuses sequences that are longer than the model's context.

    Args:
        what: noun for a sequence, with its article.
        remedy: remedy of the error.

    Raises:
        EngineError: a sequence is too long.
    """
    longest = max(sequences, key=len)
    max_tokens = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_tokens and len(longest) > max_tokens + 1:  # the last token is never an input
        text = tokenizer.decode(longest[1:]).strip()
        cause = f"{what} has {len(longest) - 1} tokens, and the model takes {max_tokens}: {text}"
        raise EngineError("model.id", tokenizer.name_or_path, cause, remedy)


@torch.no_grad()
def batch_log_likelihoods(
    model: "PreTrainedModel", sequences: Sequence[list[int]], starts: Sequence[int]
) -> np.ndarray:
    """Computes the log-likelihood of the end of each sequence, given its beginning; for any causal model.

    Args:
        model: a model in evaluation mode; it is used in its own precision.
        sequences: token ids of each sequence.
        starts: for each sequence the first token of the end, at least 1.

    Returns:
        Log-likelihoods in nats, float64 of shape (sequences,).
    """
    device, scores = next(model.parameters()).device, np.zeros(len(sequences))
    for batch in _batches([len(tokens) for tokens in sequences]):
        rows = [torch.tensor(sequences[number]) for number in batch]
        targets = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=_IGNORED_TARGET)
        for target, number in zip(targets, batch, strict=True):
            target[: starts[number] - 1] = _IGNORED_TARGET
        # Padding stands after the sequence, where a causal model does not look; so any token will do, and no mask.
        inputs = pad_sequence([row[:-1] for row in rows], batch_first=True, padding_value=sequences[0][0]).to(device)
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        losses = cross_entropy(
            logits.flatten(0, 1), targets.to(device).flatten(), ignore_index=_IGNORED_TARGET, reduction="none"
        )
        scores[batch] = -losses.view_as(targets).double().sum(1).cpu().numpy()
    return scores


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Groups sequences of similar length; yields their numbers."""
    batch: list[int] = []
    for number in np.argsort(lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * lengths[number] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
