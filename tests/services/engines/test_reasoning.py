"""Thoughts and answers of reasoning models: by stand-ins for vLLM's two kinds of parsers."""

from types import SimpleNamespace

import pytest

from services.engines.reasoning import ReasoningSplitter

CLOSED, OPENED, PLAIN = "...<think>\n\n</think>\n\n", "...assistant\n<think>\n", "...assistant\n"


class Strict:
    """Takes a response without an end mark for thoughts, as the parsers of DeepSeek-R1 and Qwen3 do."""

    reasoning_start_str, reasoning_end_str = "<think>", "</think>"

    def extract_reasoning(self, model_output, request):
        thoughts, mark, answer = model_output.removeprefix("<think>").partition("</think>")
        return thoughts, (answer or None) if mark else None


class Lenient(Strict):
    """Takes it for an answer, as the parser of Olmo 3 does."""

    def extract_reasoning(self, model_output, request):
        return super().extract_reasoning(model_output, request) if "</think>" in model_output else (None, model_output)


def split(parser, text, prompt=PLAIN):
    splitter = ReasoningSplitter(parser, SimpleNamespace(skip_special_tokens=True), lambda ids: "".join(map(chr, ids)))
    return splitter.split(text, [ord(character) for character in prompt])


@pytest.mark.parametrize("parser", [Strict(), Lenient()])
def test_thoughts_are_separated_from_the_answer(parser):
    assert split(parser, "<think>\nHm.\n</think>\n\nA dog.\n") == ("Hm.", "A dog.\n")
    assert split(parser, "Hm.</think>A dog.", OPENED) == ("Hm.", "A dog.")
    assert split(parser, "<think>Hm.</think>") == ("Hm.", "")


@pytest.mark.parametrize("parser", [Strict(), Lenient()])
def test_unfinished_thoughts_are_no_answer(parser):
    assert split(parser, "<think>Hm. A dog") == ("Hm. A dog", None)
    assert split(parser, "Hm. A dog", OPENED) == ("Hm. A dog", None)
    assert split(parser, "<thi")[1] is None and split(parser, "", OPENED)[1] is None


@pytest.mark.parametrize("parser", [Strict(), Lenient()])
def test_a_prompt_that_closes_the_thoughts_leaves_the_answer_whole(parser):
    assert split(parser, "A dog.", CLOSED) == ("", "A dog.")


def test_a_mark_in_the_middle_of_a_prompt_changes_nothing():
    assert split(Strict(), "Hm.</think>A dog.", "An example: <think>So.</think> A cat. " + PLAIN) == ("Hm.", "A dog.")


def test_a_response_without_marks_is_what_the_parser_takes_it_for():
    assert split(Strict(), "A dog.") == ("A dog.", None)
    assert split(Lenient(), "A dog.") == ("", "A dog.")
