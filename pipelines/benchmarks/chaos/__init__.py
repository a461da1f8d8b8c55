"""`kindling bench chaos`: processes killed at any moment, on the fake engine and the real one.

bench.py      the bench
jobs.py       jobs with rows of all kinds
faults.py     which process is killed, and when; failpoints
processes.py  drivers, and the replicas of the cluster
watch.py      a reader that reads the run without pause while it is written
check.py      compares a run with what its job must give
"""
