"""`kindling label`: raw text to sentences to contexts with emotions.

label.py      the verb
ranges.py     the input as ranges of bytes, a shard each, and their lines
sentences.py  from a line to clean sentences, and what is dropped by which rule
scoring.py    the pool of classifier actors, and which sentences are kept
contexts.py   what is committed: the schema, the shard's manifest, the counts
progress.py   a bar, and a line a minute
record.py     run.json
card.py       the dataset card
verification.py  what `kindling verify` asks of it
"""
