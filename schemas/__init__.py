"""The lowest layer: formats that all other layers share. It imports nothing else of Kindling, and of heavy libraries
only pyarrow and pydantic.

job.py            sections that several job files share: input, model, sampling, cluster
job_parsing.py    validation of all job files, and hints for unknown keys
augment.py        the job file of `augment`
sweep.py          the section `sweep`: several prompts and sampling settings over the same rows
generations.py    the generations of one row in an augmentation job
quality.py        the section `quality`: rules that reject texts
label.py          the job file of `label`
compose.py        the job file of `compose`
composition.py    the record of a corpus, and the Arrow schema of its documents
dedup.py          the file that `dedup` writes into a run folder
train.py          the job file of `train`
evaluate.py       the job file of `evaluate`
study.py          the file of `reproduce`, and the record of a study
rows.py           the Arrow schema of all shards, the identity of a row, its seed
row_programs.py   columns of rows that took several generations or tries
outcomes.py       states of rows, texts that were cut off, reasons why rows are not accepted
record.py         the base of records on disk
run.py            records of a run: run.json, and the manifest in the footer of each shard
fingerprint.py    the identity of a run: all keys of a job but those that only change its speed
questionnaire.py  the key of a blind questionnaire, and the answers that respondents send back
review.py         the key of a review of a run, the answers that come back, and the verdicts that are kept
minimal_pairs.py  the section `blimp`: the source of minimal pairs
emotions.py       the 28 GoEmotions labels and their three groups
secrets.py        secrets in URLs and engine arguments: refused in jobs, left out of messages
errors.py         errors that a person sees: key, value, cause, remedy, exit code
text.py           texts of unknown origin, made safe to print and short enough for one line
"""
