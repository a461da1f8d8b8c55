"""The verbs that need no engine: what can be known before a job starts.

check.py          the verb check: a job's keys, input, prompts, model, folder
check_page.py     its page in a terminal
job_data.py       the verb check of jobs that label, compose, train or evaluate: their data and models
new_job.py        the verb init: a job file from a data file
editor_schema.py  the verb schema: completion and checks of keys in an editor
doctor.py         the verb doctor: this machine, its packages, its ports and Ray
findings.py       a finding, and the questions that check and doctor both ask
"""
