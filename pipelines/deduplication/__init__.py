"""The verb `dedup`: near-duplicates, sentences of test sets and common openings are taken out of a whole run.

dedup.py     reads the accepted rows, and writes which of them are removed: the call `dedup` and its result
openings.py  thins out openings that too many rows have

What is removed lies in dedup.parquet in the run folder; `pipelines.publishing.removed_rows` reads it for `export`,
`compose` and `train`.
"""
