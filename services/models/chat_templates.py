"""Chat templates of models, rendered with a bounded amount of work.

Invariant: in a process that called `bound_chat_templates`, each rendering of a chat template by transformers ends after
MAX_STEPS steps or MAX_CHARACTERS characters.

A chat template comes with a model. transformers renders it in Jinja's sandbox, where one that loops would run for
hours, and nothing can end a thread of Python. The limits are far above what a long chat needs, and nothing else that a
template may do is changed.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, Protocol, cast

from jinja2 import Template, TemplateRuntimeError
from jinja2.runtime import Context

from services.models.bounded_jinja import COUNT_TURNS, CountingEnvironment

MAX_STEPS = 1_000_000
"""turns of loops, and calls of functions, macros and filters"""
MAX_CHARACTERS = 256 << 20
"""characters that are written or that an operator, a call or a filter makes"""
_SIZED = (str, bytes, list, tuple)


class ChatTemplateError(TemplateRuntimeError):
    """Failure of a chat template that would work without an end."""


def bound_chat_templates() -> None:
    """Makes transformers compile chat templates so that their work is bounded; in this process, from now on."""
    from transformers.utils import chat_template_utils

    if chat_template_utils.ImmutableSandboxedEnvironment is not BoundedEnvironment:
        # transformers has no public way to choose the environment (5.x).
        chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
        chat_template_utils._compile_jinja_template.cache_clear()


class _Work(threading.local):
    """Steps and characters that are left to the rendering in this thread."""

    steps, characters = MAX_STEPS, MAX_CHARACTERS


class _Bounded(Protocol):
    work: _Work


class _BoundedTemplate(Template):
    """Template of which each rendering begins to count anew."""

    def new_context(self, *args: Any, **kwargs: Any) -> Context:
        """Begins a rendering; overrides `Template.new_context`."""
        work = cast(_Bounded, self.environment).work
        work.steps, work.characters = MAX_STEPS, MAX_CHARACTERS
        return super().new_context(*args, **kwargs)


class BoundedEnvironment(CountingEnvironment):
    """Jinja's sandbox, whose renderings end."""

    template_class = _BoundedTemplate
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Jinja's optimizer would compute constant expressions when it compiles, where nothing is counted.
        super().__init__(*args, **kwargs, optimized=False)
        self.work = _Work()
        self.filters = {name: self._counted(function) for name, function in self.filters.items()}
        self.filters[COUNT_TURNS] = self.count_turns

    def spend(self, steps: int, characters: int = 0) -> None:
        """Counts work.

        Raises:
            ChatTemplateError: the rendering takes more than MAX_STEPS steps or MAX_CHARACTERS characters.
        """
        self.work.steps -= steps
        self.work.characters -= characters
        if self.work.steps < 0:
            raise ChatTemplateError(f"the model's chat template takes more than {MAX_STEPS:,} steps")
        if self.work.characters < 0:
            raise ChatTemplateError(f"the model's chat template makes more than {MAX_CHARACTERS:,} characters")

    # The methods of Jinja that a compiled template calls

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls a function or method for a template; overrides `SandboxedEnvironment.call`."""
        self.spend(1)
        return self._count_result(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Applies a binary operator for a template; overrides `SandboxedEnvironment.call_binop`."""
        if operator == "*":  # counted before it is done: a text can be made a gigabyte long in one step
            sequence, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(sequence, _SIZED) and isinstance(times, int):
                self.spend(0, len(sequence) * max(times, 0))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.spend(0, left.bit_length() * abs(right))
        return self._count_result(super().call_binop(context, operator, left, right))

    # Counts

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.spend(1)
            return self._count_result(function(*args, **kwargs))

        return counted

    def _count_result(self, value: Any) -> Any:
        if isinstance(value, _SIZED):
            self.spend(0, len(value))
        return value
