"""YAML as a person writes it in a job file: plain values, each key once, and not many of them.

PyYAML's safe loader makes no Python objects. What it lets pass is bounded here: aliases of aliases that stand for more
than any memory holds, nesting that ends Python's stack, and a key that is there twice, of which the last would hold.
"""

from typing import Any

import yaml
from yaml.composer import ComposerError

_MOST_VALUES = 10_000
_DEEPEST = 32


def load_yaml(text: str) -> Any:
    """The one document of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, or goes beyond these bounds.
        ValueError: a value that Python cannot hold, such as a date that no calendar has.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = 0
        self._values_in: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Counts the values of each node; an alias counts as all that it stands for."""
        event, before = self.peek_event(), self._values
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ComposerError(None, None, f"nested more than {_DEEPEST} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._values += 1
            self._values_in[id(node)] = self._values - before
        elif id(node) not in self._values_in:
            raise ComposerError(None, None, "an alias of what it stands in", event.start_mark)
        else:
            self._values += self._values_in[id(node)]
        if self._values > _MOST_VALUES:
            raise ComposerError(None, None, f"more than {_MOST_VALUES:,} values", event.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Refuses a key that is there twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise ComposerError(None, None, f"the key {key.value[:80]!r} is there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node
