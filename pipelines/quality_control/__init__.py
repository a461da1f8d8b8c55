"""Quality control: the rules of a job's section `quality`, which reject texts whatever the recipe.

row_program.py      a row's generations and tries
quality_rules.py    the rules that a job asks for, applied to each response in its replica
scored_checks.py    checks by a model: the emotion that a text expresses, its meaning
early_stop.py       ends a request whose beginning shows that its text will be rejected
text_checks.py      each rule as a function of texts (unsuitable_words.txt: words that are not for children)
emotion_words.py    words that name an emotion
languages.py        whether a text is in another language than the one asked for
user_check.py       a user's own check: a Python file
reference_sets.py   texts that no row may contain, and the search for them
reference_files.py  reads them from files

To add a rule, write its function in text_checks.py, its key in schemas/quality.py, and its lines in quality_rules.py.
What they reject is shown by the verb `quality` (pipelines/quality_report/).
"""
