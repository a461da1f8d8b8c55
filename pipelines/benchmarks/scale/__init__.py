"""`kindling bench scale`: many replicas, many rows, many shards.

bench.py       the bench: efficiency as replicas are added
simulation.py  hundreds of fake replicas on a virtual clock
dry_run.py     a whole job over simulated replicas: cost and memory of the driver
resume.py      the resume of a run with very many shards
"""
