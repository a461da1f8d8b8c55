"""Corpora of runs and files: counted, compared, composed into a training corpus.

rows.py             rows of runs and of other files, as `stats` and `compare` read them
stats.py            `kindling stats`
tally.py            counts of stories, words and openings in bounded memory
stats_page.py       the tables of `stats`
comparison.py       `kindling compare`
comparison_page.py  its pages: terminal, Markdown, HTML
composition.py      `kindling compose`
documents.py        the parts of a corpus as documents
word_budget.py      how many words each part gives, and which documents are taken
"""
