"""Corpora of runs and files: `stats` counts them, `compare` shows them side by side, `compose` makes a training corpus.

rows.py             opens runs and other files, and reads their rows for `stats` and `compare`
stats.py            `kindling stats`
tally.py            counts of stories, words and openings in bounded memory
nltk_words.py       words as the paper counts them
stats_page.py       the tables of `stats`
comparison.py       `kindling compare`
comparison_page.py  its pages: terminal, Markdown, HTML
composition.py      `kindling compose`
documents.py        the documents of each part of a corpus
word_budget.py      the number of words of each part, and the choice of its documents
"""
