"""`kindling label`: splits raw text into sentences, and keeps those with a clear emotion, called contexts.

label.py         the verb
ranges.py        the input as ranges of bytes, one range for each shard, and the lines in a range
sentences.py     cleans a line, splits it into sentences, and drops sentences by rules
scoring.py       the pool of classifier actors, and the choice of the sentences that are kept
contexts.py      the schema of the shards, their manifest, and the counts of a run
progress.py      a progress bar, or a log line each minute
record.py        run.json of a label run
card.py          the dataset card of a label run
verification.py  `kindling verify` of a label run
"""
