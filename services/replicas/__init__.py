"""Replicas: Ray actors around engines, and the driver that feeds them.

coordinator.py      sends rows to replicas, takes results back, takes rows back from replicas that die
dispatch_window.py  order of rows: prompts with the same beginning follow each other
replica_pool.py     the replicas of a job, and the replacement of dead ones
members.py          one replica as the driver sees it, and the events of a pool
warm_pool.py        replicas that outlive their job
kept_replicas.py    replicas that stay up between the runs of one process
starts.py           phases of the starts of replicas
replica.py          the Ray actor around one engine
sessions.py         one job's rows inside a replica, and when they travel
row_program.py      the protocol of a row that takes several generations or tries
row_records.py      the record of a finished row: text, state, reason, lineage
placement.py        GPUs and CPUs that a replica, an actor or a training requests
resource_wait.py    the wait for them: bounded, and explained
actors.py           Ray actors that load a model once and score many inputs; used by evaluations
"""
