"""The schedule of an engine, and the costs of its work that a preview learns from the ends of requests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.previewing.engine_steps import simulate_steps
from pipelines.previewing.step_costs import ServedRequests, learn_step_costs, work_until_ends

REQUESTS = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 60)), min_size=1, max_size=40)


@given(REQUESTS, st.integers(1, 8), st.integers(8, 2000))
def test_a_schedule_runs_every_request_once_and_to_its_end(requests, slots, tokens_per_step):
    prompts, outputs = zip(*requests, strict=True)
    groups = list(simulate_steps(prompts, outputs, slots, tokens_per_step))
    assert sorted(number for group in groups for number in group.finished) == list(range(len(requests)))
    assert sum(group.steps * group.running for group in groups) == sum(outputs)
    assert sum(group.prompt_tokens for group in groups) == sum(prompts)
    assert max(group.running for group in groups) <= slots and min(group.steps for group in groups) > 0


def test_the_costs_of_steps_are_learned_from_when_requests_end():
    draw = np.random.default_rng(0)
    prompts, outputs = draw.integers(50, 400, 128), draw.integers(5, 200, 128)
    true = np.array([0.05, 0.002, 0.0004])
    work = work_until_ends(prompts.tolist(), outputs.tolist(), 32, 2048)
    costs = learn_step_costs(ServedRequests(prompts, outputs, work @ true), 32, 2048)
    assert costs.seconds == pytest.approx(true, rel=1e-6)
    assert costs.relative_error(work[-1]) == pytest.approx(0, abs=1e-6)


def test_the_error_of_the_costs_is_as_large_as_they_vary():
    draw, ratios = np.random.default_rng(0), []
    true = np.array([0.05, 0.002, 0.0004])
    for _ in range(100):
        prompts, outputs = draw.integers(50, 400, 96), draw.integers(5, 200, 96)
        work = work_until_ends(prompts.tolist(), outputs.tolist(), 32, 2048)
        spans = np.diff(work @ true, prepend=0) * draw.normal(1, 0.1, len(work))
        costs = learn_step_costs(ServedRequests(prompts, outputs, np.cumsum(spans)), 32, 2048)
        off = costs.seconds @ work[-1] / (true @ work[-1]) - 1
        ratios.append(off / costs.relative_error(work[-1]))
    assert 0.5 < np.std(ratios) < 1.2


def test_requests_that_all_end_at_once_tell_no_costs():
    requests = ServedRequests(np.array([10, 10]), np.array([5, 5]), np.array([1.0, 1.0]))
    assert learn_step_costs(requests, 8, 2048) is None


def test_of_few_rows_shorter_spans_tell_the_costs():
    """Thirteen of sixteen end together, as where nearly all outputs are cut off at max_tokens."""
    outputs = np.array([4, 8, 12] + [40] * 13)
    end_seconds = work_until_ends([10] * 16, outputs.tolist(), 16, 2048) @ np.array([0.1, 0.01, 0.0])
    costs = learn_step_costs(ServedRequests(np.full(16, 10), outputs, end_seconds), 16, 2048)
    assert costs.seconds @ (1, 16, 0) == pytest.approx(0.26)
