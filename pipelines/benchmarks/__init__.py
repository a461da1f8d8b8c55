"""`kindling bench`: the measurements that Kindling claims, beside what people would use instead.

A bench is a file or a package here, and a command of the same name in `pipelines/cli/bench.py`. The file (of a package:
its `bench.py`) has a function `measure`, which takes the command's options, prints a table and, as the last line, one
JSON object, and returns whether all goals are met. A baseline runs in a process of its own, so that no arm inherits
another's engine, Ray or memory.

throughput/     bench throughput: raw vLLM, a plain script, Ray Data, Kindling; and the cost of metrics
scale/          bench scale: many replicas, rows and shards
chaos/          bench chaos: processes killed at any moment
determinism.py  bench determinism: the share of texts that are the same when a job runs again
quality/        bench quality: the loop of checks and tries, and early stops
classifier/     bench classifier: the emotion classifiers beside readers, their trainer, their speed
train/          bench train: tokens/s of training beside the defaults of TRL
blimp.py        bench blimp: minimal pairs beside lm-eval
gpu.py          bench gpu: raw vLLM and Kindling on one GPU (deploy/bench_gpu.sh)
report.py       machine, ratios, goals, and the JSON line at the end
"""
