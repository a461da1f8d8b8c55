"""The command line: `kindling VERB`.

main.py     the entry point, and the verbs in the order of `--help`
options.py  arguments and options that several verbs share
checks.py   the verbs doctor, init, check
runs.py     the verbs demo, label, preview, augment, status, verify, pool
corpora.py  the verbs stats, compare, export, compose
models.py   the verbs train, evaluate, push
bench.py    the verb bench
"""
