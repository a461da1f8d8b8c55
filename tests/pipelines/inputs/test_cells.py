import pytest

from pipelines.inputs.cells import first_label, labels_cell
from pipelines.inputs.conversations import messages_cell
from schemas.emotions import EMOTIONS
from schemas.rows import RowError


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("joy", ["joy"]),
        (" Joy\t", ["joy"]),
        ("joy,love", ["joy", "love"]),
        ("love; JOY |fear,", ["love", "joy", "fear"]),
        ("['joy', 'love']", ["joy", "love"]),  # a list that pandas wrote to CSV
        ("['joy' 'love']", ["joy", "love"]),  # an array that pandas wrote to CSV
        (' ["Joy"]', ["joy"]),
        (["Love ", "joy", "love"], ["love", "joy"]),
        (["joy", ""], ["joy"]),
        (list(EMOTIONS), list(EMOTIONS)),
    ],
)
def test_case_blank_space_and_the_form_of_a_list_of_labels_do_not_matter(cell, labels):
    assert labels_cell({"emotion": cell}, "emotion") == labels
    assert first_label({"emotion": cell}, "emotion") == labels[0]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("happiness", "emotion 'happiness' is not one of the 28 GoEmotions labels"),
        ("joy love", "emotion 'joy love' is not one of the 28 GoEmotions labels"),
        (["joy", None], "emotion None is not one of the 28 GoEmotions labels"),
        ({"joy": 1}, "emotion {'joy': 1} is not one of the 28 GoEmotions labels"),
        (" , ", "emotion has no label"),
        ("[]", "emotion has no label"),
        ([], "emotion has no label"),
        (" ", "emotion is blank"),
        (None, "emotion is null"),
        ([17], "emotion has the number 17, and its file names no labels (ClassLabel) by number"),
        (float("nan"), "emotion has the number nan, and its file names no labels (ClassLabel) by number"),
    ],
)
def test_cells_without_a_known_label(cell, reason):
    with pytest.raises(RowError) as raised:
        labels_cell({"emotion": cell}, "emotion")
    assert str(raised.value) == reason
    assert first_label({"emotion": cell}, "emotion") == ""


@pytest.mark.parametrize("content", ["", " \n", None])
def test_a_blank_system_message_is_left_out(content):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    system = {"role": "system", "content": content}
    assert messages_cell({"messages": [system, *turns]}, "messages") == turns
    assert messages_cell({"messages": [turns[0], {"role": "system"}, turns[1]]}, "messages") == turns
    with pytest.raises(RowError, match="blank system message"):
        messages_cell({"messages": [system]}, "messages")
