"""Replicas: Ray actors around engines, and the driver that feeds them.

coordinator.py      hands rows to replicas, takes results back, moves rows away from replicas that die
dispatch_window.py  order of rows: prompts with the same beginning follow each other
replica_pool.py     the replicas of a job, and the replacement of dead ones
warm_pool.py        replicas that outlive their job
replica.py          the Ray actor around one engine
row_records.py      the record of a finished row: text, state, reason, lineage
placement.py        GPUs and CPUs that a replica or a training asks the cluster for
actors.py           Ray actors that load a model once and score many inputs; used by evaluations
"""
