"""Long-lived parts. Imports schemas only.

cluster.py      joins or starts Ray
pool.py         the replicas of a job: placement, cores, replacement
replica.py      one Ray actor round one engine
engine.py       what an engine is
vllm_engine.py  the real one: the one file that touches vllm
fake_engine.py  one with a latency model in place of a neural one
models.py       from a model's name to a checkpoint and its revision
embedded.py     the model that a package ships
coordinator.py  hands rows to replicas and takes them back
writer.py       assembles shards and commits them
store.py        the run folder
row_log.py      finished rows of open shards
filesystem.py   local and remote file systems, durable writing
metrics.py      the Prometheus endpoint: the one file that touches prometheus_client
"""
