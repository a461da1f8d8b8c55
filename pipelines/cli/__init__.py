"""The command line: `kindling VERB`.

main.py        the entry point, and the verbs in the order of `--help`
options.py     arguments and options that several verbs share
checks.py      the verbs doctor, init, schema, check
runs.py        the verbs demo, label, preview, augment, status, runs, verify, pool
corpora.py     the verbs stats, compare, compose
publishing.py  the verbs export, push
models.py      the verbs train, evaluate
studies.py     the verbs reproduce, report
bench.py       the verb bench
"""
