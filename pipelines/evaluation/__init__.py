"""`kindling evaluate`: models, or responses that exist already, through evaluations.

evaluate.py           the verb: runs the evaluations of a job in order
session.py            what every evaluation of one start works with
record.py             evaluate.json, and results on disk
result_rows.py        the file of rows beside a result's figures
reports.py            reports of evaluations, and comparisons of two models
progress.py           progress on the terminal and for Prometheus
models.py             models that can be loaded, and errors of those that cannot
files.py              JSON files and tables, with one error for each fault
prompts.py            prompt sets, and groups of emotions
responses.py          responses, and those that a file holds
generation.py         models respond to the prompts of all evaluations, each with one start of its engines
examples.py           some prompts with the responses of all models, for the page
parts.py              scores of a model part by part, kept on disk until all are there
sentiment.py          the evaluation sentiment
sentiment_results.py  its results on disk, and its tables
blimp.py              the evaluation blimp
blimp_results.py      its results on disk, and its tables
emobench.py           the evaluation emobench
emobench_results.py   its results on disk, and its tables
lm_eval.py            the evaluation lm_eval
lm_eval_results.py    its results, and their table
preference.py         the evaluation preference, and its tables
logit_lens.py         the evaluation logit_lens, and its tables
logit_lens_page.py    its HTML page and pictures
"""
