"""`kindling augment`: a recipe and engines turn input rows into outputs in committed shards.

augment.py           the verb
start.py             one start: engines, the rows that are left, the end
plan.py              run.json of a new or a resumed run, and the rows that are left to generate
summary.py           the result of a start
first_rows.py        refuses a job whose first rows have no prompt, before engines start
retries.py           `--retry`: rows that were rejected or failed are generated again
target.py            `target_accepted`: rows that are left until so many are accepted
budget.py            limits of tokens, hours and cost, and what is used of them
shared.py            engines and an endpoint that the runs of one evaluation share
progress.py          counts, the progress bar, log lines
eta.py               throughput of the last minutes, and the time left with its interval
fitting_emotions.py  picks the emotion that fits a row, with a classifier
"""
