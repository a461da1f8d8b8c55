"""Long-lived parts: engines, replicas, storage, models, observability. Imports schemas only.

cluster.py      joins a Ray cluster, or starts one on this machine
engines/        an engine (vLLM, or a fake one), and the CPU settings it runs with
replicas/       Ray actors around engines, and the coordinator that sends them rows
storage/        the run folder: row log, shards, index, lease, file systems
models/         checkpoints, the packaged models, classifiers, causal models that are scored
observability/  Prometheus metrics, logs, the terminal
"""
