"""The verb reproduce: the jobs of a study, each run when the jobs that it needs are done.

plan.py       reads a study file: the jobs in an order in which they can run, and what identifies each
record.py     study.json, and whether a job is done
forecast.py   rows, tokens, time and cost of the jobs that are left
resources.py  GPUs and CPU cores that jobs want, and those that are there
processes.py  the process of one job
reproduce.py  starts jobs, waits for them, stops them
"""
