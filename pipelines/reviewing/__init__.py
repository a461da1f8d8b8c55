"""People judge sampled rows of a run, without knowing what its rules said (the verb review).

review.py       `kindling review RUN --to`: writes the page and its key
sample.py       which rows are drawn
tally.py        `kindling review RUN --returned`: acceptance, agreement, precision and recall of the rules
calibration.py  judges of the run beside what people say
returned.py     the files that reviewers sent back
tally_page.py   the tally as tables
verdicts.py     keys and verdicts in the run's folder reviews/

review.html.jinja and review.js are what the page has beside `eval.blind_page`.
"""
