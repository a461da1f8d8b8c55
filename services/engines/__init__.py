"""One engine: takes requests, returns texts.

engine.py          the interface of an engine, its requests and results
vllm_engine.py     the real engine: the only file that imports vllm
fake_engine.py     an engine with a latency model in place of a neural one, for tests and simulation
cpu_settings.py    environment of a CPU engine: cores, allocator, sizes
cpu_cores.py       reserves CPU cores, so that no two engines compute on the same ones
nucleus.py         top_p sampling without sorting the vocabulary
control_tokens.py  control tokens of a model, and text without them
"""
