"""Variables of a template that may be blank: those that the template itself tests or defaults wherever it uses them.

Invariant: a variable that `required_variables` leaves out has no use that a blank value could reach unnoticed. A use
that is not understood counts as unguarded, so in doubt a variable is required.

A blank cell, a null and an absent column are the same to a template: BLANK.
"""

from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeVisitor

# Names of variables that are known to have a value where an expression is true, and where it is false.
_Facts = tuple[set[str], set[str]]

# Filters and methods whose result is blank, or 0, where their value is blank.
_BLANK_FILTERS = frozenset({"count", "d", "default", "length", "lower", "string", "trim", "upper"})
_BLANK_METHODS = frozenset({"lower", "lstrip", "rstrip", "strip", "upper"})
_DEFAULTS, _LENGTHS = ("default", "d"), ("length", "count")
# Comparisons of a length with a number that hold for no blank value, and those that hold for every blank value only.
_LENGTH_GIVEN = {("gt", 0), ("ne", 0), ("gteq", 1)}
_LENGTH_BLANK = {("eq", 0), ("lteq", 0), ("lt", 1)}


class _Blank(str):
    """The empty text that stands for a variable without a value. It equals None too."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other is None or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


BLANK = _Blank()
"""value of a variable whose cell is blank or null, or whose column is absent"""


def is_blank(value: Any) -> bool:
    """Returns whether a cell has no value: it is null, or a text of blank space alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def required_variables(tree: nodes.Template) -> set[str]:
    """Returns the names that a template uses where neither a test nor a default guards them."""
    visitor = _Uses()
    visitor.visit(tree, set())
    return visitor.required


class _Uses(NodeVisitor):
    """Collects unguarded uses. `safe` are the names that have a value at a node, or that the template itself sets."""

    def __init__(self) -> None:
        self.required: set[str] = set()
        self._facts_of: dict[str, _Facts] = {}  # of names that `set` gives the result of a test

    def visit_Name(self, node: nodes.Name, safe: set[str]) -> None:
        if node.ctx != "load":
            safe.add(node.name)
        elif node.name not in safe:
            self.required.add(node.name)

    def visit_If(self, node: nodes.If, safe: set[str]) -> None:
        rest = set(safe)
        for branch in (node, *node.elif_):
            self._visit_test(branch.test, rest)
            true, false = self._facts(branch.test)
            self._visit_all(branch.body, rest | true)
            rest |= false
        self._visit_all(node.else_, rest)

    def visit_CondExpr(self, node: nodes.CondExpr, safe: set[str]) -> None:
        self._visit_test(node.test, safe)
        true, false = self._facts(node.test)
        self.visit(node.expr1, safe | true)
        if node.expr2 is not None:
            self.visit(node.expr2, safe | false)

    def visit_And(self, node: nodes.And | nodes.Or, safe: set[str]) -> None:
        # The result is the right operand, where the left one does not decide.
        self._visit_test(node.left, safe)
        self.visit(node.right, safe | self._facts(node.left)[isinstance(node, nodes.Or)])

    visit_Or = visit_And

    def visit_Not(self, node: nodes.Expr, safe: set[str]) -> None:
        self._visit_test(node, safe)

    visit_Test = visit_Compare = visit_Not

    def visit_Filter(self, node: nodes.Filter, safe: set[str]) -> None:
        if node.name in _DEFAULTS and isinstance(node.node, nodes.Name):
            self._visit_all(node.args, safe)
        else:
            self.generic_visit(node, safe)

    def visit_Assign(self, node: nodes.Assign, safe: set[str]) -> None:
        self.visit(node.node, safe)
        if isinstance(node.target, nodes.Name):
            name = node.target.name
            self._facts_of[name] = (set(), set()) if name in self._facts_of else self._facts(node.node)
        self.visit(node.target, safe)

    def visit_AssignBlock(self, node: nodes.AssignBlock, safe: set[str]) -> None:
        self._visit_all(node.body, set(safe))
        self.visit(node.target, safe)

    def visit_For(self, node: nodes.For, safe: set[str]) -> None:
        self.visit(node.iter, safe)
        inner = set(safe)
        self.visit(node.target, inner)
        if node.test is not None:
            self._visit_test(node.test, inner)
            inner |= self._facts(node.test)[0]
        self._visit_all(node.body, inner)
        self._visit_all(node.else_, set(safe))

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock, safe: set[str]) -> None:
        if isinstance(node, nodes.CallBlock):
            self.visit(node.call, safe)
        self._visit_all(node.defaults, safe)
        inner = set(safe)
        self._visit_all([*node.args, *node.body], inner)

    visit_CallBlock = visit_Macro

    def visit_With(self, node: nodes.With, safe: set[str]) -> None:
        self._visit_all(node.values, safe)
        self._visit_all([*node.targets, *node.body], set(safe))

    def visit_Block(self, node: nodes.Node, safe: set[str]) -> None:
        self.generic_visit(node, set(safe))

    visit_FilterBlock = visit_Scope = visit_Block

    def _visit_all(self, children: list[Any], safe: set[str]) -> None:
        for child in children:
            self.visit(child, safe)

    def _visit_test(self, node: nodes.Node, safe: set[str]) -> None:
        """Visits an expression that decides on a branch: the tests of a variable in it are no uses of its value."""
        if isinstance(node, nodes.And | nodes.Or):
            self._visit_test(node.left, safe)
            self._visit_test(node.right, safe | self._facts(node.left)[isinstance(node, nodes.Or)])
        elif isinstance(node, nodes.Not):
            self._visit_test(node.node, safe)
        elif not any(self._facts(node)):
            is_test = isinstance(node, nodes.Test | nodes.Compare)
            (self.generic_visit if is_test else self.visit)(node, safe)

    def _facts(self, node: nodes.Node) -> _Facts:
        """Returns the variables that have a value where the expression is true, and where it is false."""
        if isinstance(node, nodes.Name) and node.name in self._facts_of:
            return self._facts_of[node.name]
        if name := _tested(node):
            return {name}, set()
        if isinstance(node, nodes.Not):
            true, false = self._facts(node.node)
            return false, true
        if isinstance(node, nodes.And | nodes.Or):
            (true, false), (other_true, other_false) = self._facts(node.left), self._facts(node.right)
            is_and = isinstance(node, nodes.And)
            return (true | other_true, false & other_false) if is_and else (true & other_true, false | other_false)
        if isinstance(node, nodes.Test) and (name := _tested(node.node)):
            given, blank = node.name == "defined", node.name in ("undefined", "none")
        elif isinstance(node, nodes.Compare) and (name := _tested(node.expr)):
            given, blank = _compared(node)
        else:
            return set(), set()
        return {name} if given else set(), {name} if blank else set()


def _tested(node: nodes.Node | None) -> str:
    """Returns the variable that has a value where an expression is true: `a`, `a|trim`, `a.strip()`; "" for none."""
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Filter) and node.name in _BLANK_FILTERS:
            if node.name in _DEFAULTS and not all(isinstance(arg, nodes.Const) and not arg.value for arg in node.args):
                return ""
            node = node.node
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in _BLANK_METHODS:
            node = node.node.node
        else:
            return ""
    return node.name


def _compared(node: nodes.Compare) -> tuple[bool, bool]:
    """Returns whether a comparison of a variable holds for no blank value, and whether for blank values alone."""
    operand = node.ops[0]
    if len(node.ops) > 1 or not isinstance(operand.expr, nodes.Const):
        return False, False
    if isinstance(node.expr, nodes.Filter) and node.expr.name in _LENGTHS:
        comparison = (operand.op, operand.expr.value)
        return comparison in _LENGTH_GIVEN, comparison in _LENGTH_BLANK
    is_empty = operand.expr.value is None or operand.expr.value == ""
    return is_empty and operand.op == "ne", is_empty and operand.op == "eq"
