"""`kindling preview`: a few rows of a job run for real, and a forecast of the whole job.

preview.py       the verb
rows.py          which rows are run
running.py       they are run, on one engine
forecast.py      what the whole job comes to
estimates.py     sums and shares of all rows, from some of them
serving_time.py  how long engines take for all rows
step_costs.py    what a step of an engine costs
page.py          how it is shown
"""
