"""Long-lived parts. Imports schemas only.

cluster.py       joins or starts Ray
pool.py          the replicas of a job, its own or a warm pool's, and their replacement
warm_pool.py     replicas that outlive their job
placement.py     what a replica or a training gets of a cluster
cores.py         CPU cores that one engine alone computes on
replica.py       one Ray actor round one engine
records.py       what a finished row says of itself
engine.py        what an engine is
vllm_engine.py   the real one: the one file that touches vllm
control.py       a model's control tokens, and text without them
nucleus.py       which tokens top_p leaves, found without sorting
cpu_settings.py  what that gets on a CPU: cores, allocator, sizes
fake_engine.py   one with a latency model in place of a neural one
schedule.py      what an engine does step by step, without the time that it takes
simulation.py    hundreds of those on a virtual clock
models.py        from a model's name to a checkpoint and its revision
embedded.py      the models that packages ship
classifier.py    the emotions of texts
document_scores.py  the emotions of long texts, by their sentences
emotion_head.py  Kindling's own classifier: a head on a sentence encoder
causal_model.py  causal models to be evaluated
minimal_pairs.py  which of two sentences a model finds likelier
prefix_trees.py  how likely token sequences are, with what begins alike computed once
coordinator.py   hands rows to replicas and takes them back
window.py        which row runs next: prompts that begin alike follow each other
activity.py      when rows were with engines
writer.py        assembles shards and commits them
store.py         the run folder
lease.py         one driver at a time for a run folder
row_log.py       finished rows of open shards
units.py         which output of a run a finished row is
shard_index.py   what is in each committed shard, in one file
failpoints.py    places at which a test lets a process die
filesystem.py    local and remote file systems, durable writing
logs.py          what a command says on stderr while it works
terminal.py      how a long job shows itself on stderr
scrape_targets.py  how Prometheus finds the jobs of a host
metrics.py       the Prometheus endpoint: the one file that touches prometheus_client
"""
