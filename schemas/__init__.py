"""The ground layer: formats that all other layers share. Imports nothing of Kindling, and of heavy libraries only
pyarrow and pydantic.

job.py            sections that several job files share (input, model, sampling, cluster), and their validation
augment.py        the job file of `augment`
sweep.py          the section `sweep`: several prompts and sampling settings over the same rows
label.py          the job file of `label`
compose.py        the job file of `compose`, the record of a corpus, the Arrow schema of its documents
train.py          the job file of `train`
evaluate.py       the job file of `evaluate`
rows.py           the Arrow schema of every shard, row identity, seeds
run.py            run.json, and the manifest in the footer of each shard
fingerprint.py    which keys of a job identify a run, and which only change its speed
questionnaire.py  the key of a blind questionnaire, and the answers that respondents send back
minimal_pairs.py  the section `blimp`: where minimal pairs are read from
emotions.py       the 28 GoEmotions labels and their three groups
errors.py         the errors a person sees: key, value, cause, remedy, exit code
text.py           texts of unknown origin, made safe to print and short enough for one line
"""
