"""`kindling augment`: input rows through a recipe and engines into committed shards.

augment.py           the verb
plan.py              a new run or a resumed one, and the rows that are left
progress.py          counts, the progress bar, log lines
eta.py               throughput of the last minutes, and the time left with its interval
fitting_emotions.py  picks the emotion that fits a row, by a classifier
"""
