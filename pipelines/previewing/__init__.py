"""`kindling preview`: a few rows of a job run for real, and a forecast of the whole job.

preview.py       the verb
rows.py          draws the rows to run
running.py       runs them on one engine
forecast.py      rows, tokens, time and cost of the whole job, with intervals
estimates.py     sums and shares over all rows, estimated from some of them
serving_time.py  time that engines take for all rows
step_costs.py    time that one step of an engine takes
engine_steps.py  which requests an engine runs in each step
page.py          the page: terminal, Markdown, HTML
"""
