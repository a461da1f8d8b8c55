"""`kindling evaluate`: models, or responses that are there already, through evaluations.

job.py                the verb
record.py             the run folder: whose it is, and the results in it
session.py            what an evaluation works with, and what all of them do alike
progress.py           how far it is, on the terminal and for Prometheus
models.py             which models can be had, and what is told of those that cannot
files.py              JSON files and tables, each fault of which is one error
prompts.py            prompt sets, and groups of emotions
answers.py            responses that are there already
generation.py         responses of a model, through `augment`
pool.py               Ray actors that load a model once and work through units
sentiment.py          the evaluation sentiment
sentiment_results.py  its results on disk
sentiment_tables.py   its tables
causal.py             models that are scored, in the actors
blimp.py              the evaluation blimp
blimp_results.py      its results on disk
blimp_tables.py       its tables
lm_eval_tasks.py      the evaluation lm_eval, and its table
preference.py         the evaluation preference
questionnaire.py      a blind questionnaire as one HTML page, and its key
preference_tables.py  the tables of the evaluation preference
lens.py               the evaluation logit_lens
lens_table.py         what the logit lens found, as Parquet
lens_page.py          the same as an HTML page and as pictures
tables.py             tables for the terminal and in Markdown
"""
