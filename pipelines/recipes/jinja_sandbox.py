"""Jinja, fenced in: a template reads its variables and nothing else, and a render does bounded work.

Jinja's own sandbox keeps a template from Python's internals and from changing what it is given. This one allows only
what `allowed.py` names, and counts: a step for each value that an expression names or makes and for each turn of a
loop, and the characters of each such value. Nothing is timed, so a template ends the same way on the same row whatever
the machine is at.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, MappingView
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateRuntimeError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from pipelines.recipes.jinja_allowed import (
    ATTRIBUTES,
    FILTER_COSTS,
    FILTERS,
    METHOD_COSTS,
    numbers_in,
    operator_cost,
    size_of,
)

MOST_STEPS = 100_000
MOST_CHARACTERS = 8 << 20

# Filters that only the compiled template calls: no template can spell a name that ends in a blank.
_WEIGH, _TURNS = "weigh ", "turns "
# Longer constants are weighed where they are used, as variables are.
_LONG_CONSTANT = 64


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles and renders templates; one render at a time."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        # Jinja's optimizer would compute constant expressions when it compiles, where nothing is counted.
        super().__init__(undefined=StrictUndefined, trim_blocks=True, optimized=False)
        self._steps, self._characters = MOST_STEPS, MOST_CHARACTERS
        self.filters = {name: self._counted(self.filters[name], FILTER_COSTS.get(name)) for name in FILTERS}
        self.filters.update({_WEIGH: self.weigh, _TURNS: self._turns})
        self.tests = {name: self._counted(test) for name, test in self.tests.items()}
        self.globals = {"range": lambda *bounds: list(safe_range(*bounds)), "dict": dict, "namespace": _Namespace}

    def run(self, template: Template, variables: dict[str, Any]) -> str:
        """Renders a template of this sandbox.

        Raises:
            Exception: whatever the template runs into; TemplateRuntimeError where it does too much.
        """
        self._steps, self._characters = MOST_STEPS, MOST_CHARACTERS
        return template.render(variables)

    def spend(self, steps: int, characters: int) -> None:
        """Counts work that is about to be done.

        Raises:
            TemplateRuntimeError: it is more than a render may do.
        """
        self._steps -= steps
        # Costs are made of what a template gives: no negative width buys room, and no NaN makes it endless.
        self._characters -= max(int(characters), 0)
        if self._steps < 0:
            raise TemplateRuntimeError(f"it takes more than {MOST_STEPS:,} steps")
        if self._characters < 0:
            raise TemplateRuntimeError(f"it handles more than {MOST_CHARACTERS:,} characters")

    def weigh(self, value: Any) -> Any:
        """Counts a value, and returns it."""
        self.spend(1, size_of(value, self._characters))
        return value

    def concat(self, pieces: Iterable[str]) -> str:
        """What a template, a macro or a block writes."""
        written = []
        for piece in pieces:
            self.spend(0, len(piece))
            written.append(piece)
        return "".join(written)

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See `SandboxedEnvironment.call`."""
        owner = getattr(called, "__self__", None)
        if owner is not None and (cost := METHOD_COSTS.get(called.__name__)):
            self.spend(0, cost(owner, *args, **kwargs))
        return self._settled(super().call(context, called, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """See `SandboxedEnvironment.call_binop`."""
        self.spend(0, operator_cost(operator, left, right))
        return self.weigh(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """See `Environment.getitem`; filters come here for each part of an `attribute`."""
        self.spend(1, 0)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """See `SandboxedEnvironment.is_safe_attribute`."""
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(attr in names for kind, names in ATTRIBUTES.items() if isinstance(obj, kind))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """See `SandboxedEnvironment.wrap_str_format`."""
        is_format = super().wrap_str_format(value) is not None and value.__name__ == "format"
        return functools.partial(_Formatter(self).format, value.__self__) if is_format else None

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Scales().visit(source), *args, **kwargs)

    def _counted(self, function: Callable[..., Any], cost: Callable[..., int] | None = None) -> Callable[..., Any]:
        """A filter or test whose arguments and result are counted."""
        # Some take the context first.
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            for value in (*args[first:], *kwargs.values()):
                self.weigh(value)
            if cost is not None:
                self.spend(0, cost(*args[first:], **kwargs))
            return self._settled(function(*args, **kwargs))

        return counted

    def _settled(self, value: Any) -> Any:
        """A result; what would be made piece by piece later is made and counted now."""
        if isinstance(value, (Iterator, MappingView)):
            return [self.weigh(item) for item in value]
        return self.weigh(value)

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(1, 0)
            yield item


class _Scales(NodeTransformer):
    """Puts a template's loops and values on the scales. Calls, operators, filters and tests weigh their own results."""

    def visit_Name(self, node: nodes.Name | nodes.Tuple | nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _WEIGH) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_List = visit_Dict = visit_Name

    def visit_Getitem(self, node: nodes.Getitem | nodes.Getattr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _WEIGH) if node.ctx == "load" else node

    visit_Getattr = visit_Getitem

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        # A method has no weight of its own; that of which it is one has.
        method = node.node if isinstance(node.node, nodes.Getattr) else None
        if method is None:
            return self.generic_visit(node)
        node.node = method.node
        self.generic_visit(node)
        method.node, node.node = node.node, method
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return _filtered(node, _WEIGH) if len(str(node.value)) > _LONG_CONSTANT else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno, environment=node.environment), "join")

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _TURNS)
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


class _Formatter(SandboxedFormatter):
    """`str.format`; each field is counted."""

    def format_field(self, value: Any, format_spec: str) -> str:
        """See `string.Formatter`."""
        self._env.spend(0, numbers_in(format_spec))
        return self._env.weigh(super().format_field(value, format_spec))


class _Namespace(Namespace):
    """Jinja's, which would print all that it holds, and the namespaces in it, and theirs."""

    def __repr__(self) -> str:
        return "namespace"
