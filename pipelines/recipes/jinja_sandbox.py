"""The sandbox in which templates are rendered.

Invariant: a template reads its variables and nothing else, and a render stops after a bounded amount of work.

Jinja's own sandbox keeps a template from Python's internals and from changing its variables. This one allows only the
filters and methods that `jinja_allowed.py` names, and counts two things: steps (each value that an expression names or
makes, each turn of a loop) and characters (of each such value). No clock is read, so that a template succeeds or fails
on a row in the same way on every machine.

The counts come from three places: calls, operators, filters and tests count their results here; `_CountingTransformer`
adds a count to the variables, constants and loops of a template when it is compiled; and `concat` counts the text that
is written.
"""

import functools
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any, cast

from jinja2 import StrictUndefined, Template, TemplateRuntimeError, Undefined, nodes
from jinja2.filters import do_default
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedFormatter, safe_range
from jinja2.utils import Namespace

from pipelines.recipes.jinja_allowed import (
    ATTRIBUTES,
    FILTER_COSTS,
    FILTERS,
    METHOD_COSTS,
    operator_cost,
    size_of,
    sum_of_numbers,
)
from pipelines.recipes.jinja_blanks import BLANK
from services.models.bounded_jinja import COUNT_TURNS, CountingEnvironment, CountingTransformer, filtered

MAX_STEPS = 100_000
MAX_CHARACTERS = 8 << 20

# Filter for the compiled template alone, as COUNT_TURNS is.
_COUNT_VALUE = "count_value "
# Constants up to this length are not counted where they are used; longer ones are, as variables are.
_MAX_UNCOUNTED_CHARACTERS = 64


class _CountingTransformer(CountingTransformer):
    """Adds counts to a template's syntax tree, where neither a call nor an operator counts: `a` becomes `a|count`."""

    def visit_Name(self, node: nodes.Name | nodes.Tuple | nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        # A name that is assigned to has the context "store".
        return filtered(node, _COUNT_VALUE) if getattr(node, "ctx", "load") == "load" else node

    visit_Tuple = visit_List = visit_Dict = visit_Name

    def visit_Getitem(self, node: nodes.Getitem | nodes.Getattr) -> nodes.Node:
        self.generic_visit(node)
        return filtered(node, _COUNT_VALUE) if node.ctx == "load" else node

    visit_Getattr = visit_Getitem

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        method = node.node if isinstance(node.node, nodes.Getattr) else None
        if method is None:
            return self.generic_visit(node)
        # In `text.upper()`, `text` is counted, and the result is. The method itself has no size, and must remain what
        # is called, so it is taken out while its parts are visited.
        node.node = method.node
        self.generic_visit(node)
        method.node, node.node = node.node, method
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return filtered(node, _COUNT_VALUE) if len(str(node.value)) > _MAX_UNCOUNTED_CHARACTERS else node


class Sandbox(CountingEnvironment):
    """Compiles and renders templates; one render at a time."""

    transformer = _CountingTransformer
    intercepted_binops = frozenset(CountingEnvironment.default_binop_table)

    def __init__(self) -> None:
        # Jinja's optimizer would compute constant expressions when it compiles, where nothing is counted.
        super().__init__(undefined=StrictUndefined, trim_blocks=True, optimized=False, finalize=_written_value)
        self._steps_left, self._characters_left = MAX_STEPS, MAX_CHARACTERS
        self.filters.update(dict.fromkeys(("default", "d"), _default))
        self.filters = {name: self._counted(self.filters[name], FILTER_COSTS.get(name)) for name in FILTERS}
        self.filters.update({_COUNT_VALUE: self.count_value, COUNT_TURNS: self.count_turns})
        tests = cast("dict[str, Callable[..., Any]]", {**self.tests, **_TESTS})
        self.tests = {name: self._counted(test) for name, test in tests.items()}
        self.globals = {"range": lambda *bounds: list(safe_range(*bounds)), "dict": dict, "namespace": _Namespace}

    def run(self, template: Template, variables: dict[str, Any]) -> str:
        """Renders a template that this sandbox compiled.

        Raises:
            TemplateRuntimeError: the render takes more than MAX_STEPS steps or MAX_CHARACTERS characters.
            Exception: any other error that an expression of the template raises.
        """
        self._steps_left, self._characters_left = MAX_STEPS, MAX_CHARACTERS
        return template.render(variables)

    def spend(self, steps: int, characters: int = 0) -> None:
        """Counts work that is about to be done.

        Raises:
            TemplateRuntimeError: the render would take more than MAX_STEPS steps or MAX_CHARACTERS characters.
        """
        self._steps_left -= steps
        # A template chooses the numbers that costs are computed from. A negative width must not give back any budget,
        # and int() fails on a NaN, which would compare as within every limit.
        self._characters_left -= max(int(characters), 0)
        if self._steps_left < 0:
            raise TemplateRuntimeError(f"it takes more than {MAX_STEPS:,} steps")
        if self._characters_left < 0:
            raise TemplateRuntimeError(f"it handles more than {MAX_CHARACTERS:,} characters")

    def count_value(self, value: Any) -> Any:
        """Counts a value as one step and its characters, and returns it."""
        self.spend(1, size_of(value, self._characters_left))
        return value

    # The methods of Jinja that a compiled template calls

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or method for a template; overrides `SandboxedEnvironment.call`."""
        owner = getattr(function, "__self__", None)
        if owner is not None and (cost := METHOD_COSTS.get(function.__name__)):
            self.spend(0, cost(owner, *args, **kwargs))
        return self._count_result(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Applies a binary operator for a template; overrides `SandboxedEnvironment.call_binop`."""
        self.spend(0, operator_cost(operator, left, right))
        return self.count_value(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Gets an item; overrides `Environment.getitem`. Filters call it for each part of their `attribute`."""
        self.spend(1)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Returns whether ATTRIBUTES allows an attribute; overrides `SandboxedEnvironment.is_safe_attribute`."""
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return any(attr in names for kind, names in ATTRIBUTES.items() if isinstance(obj, kind))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Replaces `str.format` by one that counts; overrides `SandboxedEnvironment.wrap_str_format`."""
        is_format = super().wrap_str_format(value) is not None and value.__name__ == "format"
        return functools.partial(_CountingFormatter(self).format, value.__self__) if is_format else None

    # Counts

    def _counted(self, function: Callable[..., Any], cost: Callable[..., int] | None = None) -> Callable[..., Any]:
        """Returns a filter or test that counts its arguments, its cost and its result."""
        # Some functions of Jinja take the context or the environment first, which is no value of the template.
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            for value in (*args[first:], *kwargs.values()):
                self.count_value(value)
            if cost is not None:
                self.spend(0, cost(*args[first:], **kwargs))
            return self._count_result(function(*args, **kwargs))

        return counted

    def _count_result(self, value: Any) -> Any:
        """Counts a result, and returns it. The items of an iterator are made and counted now: later nothing would."""
        if isinstance(value, (Iterator, KeysView, ValuesView, ItemsView)):
            return [self.count_value(item) for item in value]
        return self.count_value(value)


def _written_value(value: Any) -> Any:
    """Returns a value that a template writes. Jinja would write a null as the word None, and a method with its address.

    Raises:
        TemplateRuntimeError: the value is null, or a method or function that was not called.
    """
    if value is None:
        raise TemplateRuntimeError("it writes a value that is null; test it with `if`, or give it a `default`")
    if callable(value) and not isinstance(value, Undefined):
        raise TemplateRuntimeError("it writes a method and not a value: a text has no such key; a call needs `()`")
    return value


def _default(value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    return do_default(Undefined() if value is BLANK else value, default_value, boolean)


# A blank variable counts as one that is not there.
_TESTS: dict[str, Callable[..., bool]] = {
    "defined": lambda value: value is not BLANK and not isinstance(value, Undefined),
    "undefined": lambda value: value is BLANK or isinstance(value, Undefined),
    "none": lambda value: value is BLANK or value is None,
}


class _CountingFormatter(SandboxedFormatter):
    """`str.format` that counts each field."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self._sandbox = sandbox

    def format_field(self, value: Any, format_spec: str) -> str:
        """Formats one field; overrides `string.Formatter.format_field`."""
        # The widths and precisions in the specification bound the length of the result.
        self._sandbox.spend(0, sum_of_numbers(format_spec))
        return self._sandbox.count_value(super().format_field(value, format_spec))


class _Namespace(Namespace):
    """Jinja's `namespace`, without its `repr`: that would print all values in it and in the namespaces in it."""

    def __repr__(self) -> str:
        return "namespace"
