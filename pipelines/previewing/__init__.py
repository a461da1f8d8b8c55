"""`kindling preview`: a few rows of a job run for real, and a forecast of the whole job.

preview.py         the verb
rendering.py       renders rows of the job without an engine; `check` uses it too
rows.py            draws the rows to run
running.py         runs them on one engine
forecast.py        rows, tokens, time and cost of the whole job, with intervals
estimates.py       intervals of means, sums and counts, from resampled rows
output_lengths.py  mean length of all outputs, from finished ones and ones that were cut off
serving_time.py    time that engines take for all rows
step_costs.py      time that an engine takes for a step and for a token
engine_steps.py    requests that an engine runs in each step
page.py            the page: terminal, Markdown, HTML
"""
