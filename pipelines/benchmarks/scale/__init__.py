"""`kindling bench scale`: many replicas, many rows, many shards.

bench.py       efficiency as replicas are added, real and simulated, and the goals
jobs.py        the job that all of them run, on the fake engine
simulation.py  hundreds of simulated replicas on a virtual clock
dry_run.py     a whole job over simulated replicas: cost and memory of the driver
resume.py      the resume of a run with very many shards
"""
