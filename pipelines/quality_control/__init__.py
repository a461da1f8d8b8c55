"""Quality control: the rules of a job's section `quality`, which reject texts whatever the recipe.

row_program.py    a row's generations and tries
quality_rules.py  the rules that a job asks for, applied to each response in its replica
scored_checks.py  checks by a model: the emotion that a text expresses, its meaning
early_stop.py     ends a request whose beginning shows that its text will be rejected
text_checks.py    each rule as a function of texts
emotion_words.py  words that name an emotion

To add a rule, write its function in text_checks.py, its key in schemas/quality.py, and its line in quality_rules.py.
"""
