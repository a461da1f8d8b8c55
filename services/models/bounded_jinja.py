"""Jinja's sandbox with counts of work: the part that templates of prompts and chat templates of models share.

Jinja's sandbox keeps a template from code and files, but two nested loops of a line each would run for hours. So work
is counted, and no clock is read: a row has the same result on every machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

COUNT_TURNS = "count_turns "
"""filter for the compiled template alone: a name that ends in a blank cannot be written in a template"""


def filtered(node: nodes.Node, name: str) -> nodes.Filter:
    """Returns the syntax tree of `node|name`."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


class CountingTransformer(NodeTransformer):
    """Adds counts to a template's syntax tree, where nothing that Jinja calls could count."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Counts the turns of a loop."""
        self.generic_visit(node)
        node.iter = filtered(node.iter, COUNT_TURNS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Counts the result of `a ~ b`."""
        # `a ~ b` is compiled to a join that nothing intercepts; the filter `join` does the same and is counted.
        self.generic_visit(node)
        return filtered(nodes.List(node.nodes, lineno=node.lineno, environment=node.environment), "join")


class CountingEnvironment(ImmutableSandboxedEnvironment, ABC):
    """Jinja's sandbox that counts turns of loops and the text that is written.

    A subclass counts the rest, and has the filter COUNT_TURNS.
    """

    transformer: ClassVar[type[CountingTransformer]] = CountingTransformer

    @abstractmethod
    def spend(self, steps: int, characters: int = 0) -> None:
        """Counts work.

        Raises:
            TemplateRuntimeError: the rendering takes more than it may.
        """

    def concat(self, pieces: Iterable[str]) -> str:
        """Joins the text that a template, a macro or a block writes, and counts it."""
        counted = []
        for piece in pieces:
            self.spend(0, len(piece))
            counted.append(piece)
        return "".join(counted)

    def count_turns(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yields the items of a loop, and counts each."""
        for item in items:
            self.spend(1)
            yield item

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(self.transformer().visit(source), *args, **kwargs)
