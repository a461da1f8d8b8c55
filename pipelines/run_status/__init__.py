"""`kindling status` and `kindling runs`: how far a run is, from disk and from the endpoint of its job.

status.py        the verb: finds out which kind of run it is
augment.py       status of an `augment` run
augment_page.py  its page
label.py         status of a `label` run
train.py         status of a `train` run
evaluate.py      status of an `evaluate` run
study.py         status of a study
history.py       throughput and time left of an `augment` run, from its files
page.py          the page and the one-line form
listing.py       the verb runs: all runs below a folder
watch.py         `--watch`: the page again and again
"""
