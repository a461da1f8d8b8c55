"""Long-lived parts: engines, replicas, storage, models, observability. Imports schemas only.

cluster.py      joins a Ray cluster, or starts one on this machine
ray_files.py    token and temporary folder of a Ray that a job starts, for one user alone
engines/        an engine (vLLM, or a fake one), and the CPU settings it runs with
replicas/       Ray actors around engines, and the coordinator that sends them rows
storage/        the run folder: row log, shards, index, lease, file systems
models/         checkpoints, the packaged models, classifiers, causal models that are scored
observability/  Prometheus metrics, logs, the terminal
"""
