"""`kindling bench throughput`: Kindling beside raw vLLM, a plain script and Ray Data; and the cost of its metrics.

bench.py          all arms on all workloads, in alternating order
arms.py           starts each arm and reads its figures
kept.py           keeps each run, so that a stopped bench goes on
processor_time.py  the cores' time by kind of process
one_at_a_time.py  arms whose engines are started anew in each round
metrics_cost.py   Kindling with metrics beside Kindling without
scraper.py        reads a run's metrics every second
workloads.py      rows and prompts that all arms serve (prompts/)
worker.py         input, settings and figures of the baseline processes
raw_vllm.py       baseline: vLLM alone, with seeds and without
ray_data_llm.py   baseline: batch inference of Ray Data
"""
