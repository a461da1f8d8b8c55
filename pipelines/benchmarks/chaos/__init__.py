"""`kindling bench chaos`: processes killed at any moment, on the fake engine and the real one.

bench.py      runs until every kill has happened, and the goals
jobs.py       jobs with rows of all kinds
faults.py     one run whose processes are killed and stopped; failpoints
object_store.py  an S3 server behind a proxy that disturbs requests
processes.py  drivers, and the replicas of the cluster
watch.py      a reader that reads the run again and again while it is written
check.py      compares a complete run with what its job must give
"""
