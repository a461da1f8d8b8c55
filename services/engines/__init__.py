"""One engine: takes requests, returns texts.

engine.py          interface of an engine, its requests and results
vllm_engine.py     the real engine: the only file that imports vllm
fake_engine.py     an engine with a latency model in place of a neural one, for tests and simulation
reasoning.py       reasoning models: separates their thoughts from their answers
choices.py         judges: the probabilities of a few answers
engine_log.py      finds in vLLM's log why an engine died
cpu_settings.py    environment of a CPU engine: cores and memory allocator
cpu_cores.py       reserves CPU cores, so that no two engines compute on the same ones
nucleus.py         top_p sampling without sorting the vocabulary
control_tokens.py  finds the control tokens of a model, and breaks them up in a text
"""
