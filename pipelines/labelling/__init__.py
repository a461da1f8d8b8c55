"""`kindling label`: raw text to sentences to contexts with emotions.

label.py         the verb
ranges.py        the input as ranges of bytes, one range a shard, and the lines in a range
sentences.py     from a line to clean sentences; sentences that are dropped, by rule
scoring.py       the pool of classifier actors, and which sentences are kept
contexts.py      what is committed: the schema, the manifest of a shard, the counts
progress.py      a progress bar, or a line a minute
record.py        run.json of a label run
card.py          its dataset card
verification.py  `kindling verify` of a label run
"""
