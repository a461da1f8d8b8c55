"""Benchmarks: what Kindling is measured against, on the same rows, engine settings and seeds.

    throughput.py     bench throughput: all arms on all workloads, in alternating order
    arms.py           Kindling and the baselines, asked the same way
    workloads.py      the rows and prompts that all arms serve (prompts/)
    worker.py         what the baseline processes share: their lines in and out, their settings, their figures
    raw_vllm.py       vLLM alone: one call over all prompts, and the loop over chunks that people write
    ray_data_llm.py   Ray Data's own batch inference
    scale.py          bench scale: replicas added, memory, resume
    dry_run.py        a whole job over simulated replicas
    resume.py         a run with very many shards
    chaos.py          bench chaos: processes killed at any moment, on the fake engine and the real one
    chaos_jobs.py     their jobs, with rows of all kinds
    chaos_faults.py   the victims, times and failpoints
    chaos_processes.py    drivers, and the replicas of the cluster
    chaos_watch.py    a hostile reader beside the run
    chaos_check.py    what a run must come to, and whether it did
    determinism.py    bench determinism: the same job again, and how many texts are the same
    classifier.py     bench classifier: the emotion classifier, its trainer, its speed
    train.py          bench train: real tokens/s of training beside TRL's defaults
    train_arm.py      one run of one trainer
    blimp.py          bench blimp: minimal pairs beside lm-eval
    watched.py        bench watched: what metrics cost
    gpu.py            raw vLLM and Kindling on one GPU (deploy/bench_gpu.sh)
    report.py         machine, ratios, goals, the last line

A baseline runs in a process of its own, so that no arm inherits another's engine, Ray or memory.
"""
