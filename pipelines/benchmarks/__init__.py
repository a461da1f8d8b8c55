"""`kindling bench`: the measurements that Kindling claims, beside what people would use instead.

A baseline runs in a process of its own, so that no arm inherits another's engine, Ray or memory.

throughput/     bench throughput: raw vLLM, a plain script, Ray Data, Kindling
scale/          bench scale: many replicas, rows and shards
chaos/          bench chaos: processes killed at any moment
determinism.py  bench determinism: how many texts are the same when a job runs again
classifier.py   bench classifier: the emotion classifier, its trainer, its speed
train.py        bench train: tokens/s of training beside the defaults of TRL
train_arm.py    one run of one trainer, in a process of its own
blimp.py        bench blimp: minimal pairs beside lm-eval
watched.py      bench watched: the cost of metrics
gpu.py          raw vLLM and Kindling on one GPU (deploy/bench_gpu.sh)
report.py       machine, ratios, goals, and the JSON line at the end
"""
