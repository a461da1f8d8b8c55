"""`kindling bench throughput`: Kindling beside raw vLLM, a plain script and Ray Data.

throughput.py    all arms on all workloads, in alternating order
arms.py          starts each arm and reads its figures
workloads.py     rows and prompts that all arms serve (prompts/)
worker.py        input, settings and figures of the baseline processes
raw_vllm.py      baseline: vLLM alone, in one call, or chunk after chunk
ray_data_llm.py  baseline: batch inference of Ray Data
"""
