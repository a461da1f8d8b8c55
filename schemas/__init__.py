"""Ground floor: what the other floors agree on. Imports nothing of ours, and no heavy library but pyarrow and pydantic.

errors.py       one exception family: key, value, cause, remedy, exit code
emotions.py     the 28 GoEmotions labels and their three groups
label.py        the job file of label
train.py        the job file of train
evaluate.py     the job file of evaluate
minimal_pairs.py  where minimal pairs come from, in jobs of both
job.py          the job file (YAML) as pydantic models; unknown keys are refused with the nearest known one
sweep.py        a job's sweep: several prompts and sampling settings over the same rows
rows.py         the Arrow schema of every shard, row identity, seeds
questionnaire.py  the key of a blind questionnaire, and the answers that come back
composition.py  the compose job (YAML), the record of a corpus, and the Arrow schema of its documents
run.py          run.json and the manifest in each shard's footer
fingerprint.py  which job keys identify a run and which only change its speed
"""
