"""The run folder on disk or in an object store.

store.py         paths, shards and run.json of a run folder
parts.py         numbers and names of shards, and of the retries of their rows
shard_writer.py  assembles finished rows into shards and commits them
commit_order.py  the order of commits of a job with a target
open_shard.py    rows of a shard that is not committed yet
row_log.py       log of finished rows whose shard is still open
object_log.py    the same on object stores
log_records.py   records of a row log
shard_index.py   index of all committed shards in one file; can be rebuilt
versioned_object.py  one object in a store, replaced under a condition
digest.py        digest of the data files of a folder
lease.py         lets one driver at a time write to a run folder
output_ids.py    number of each output of a run: input row, sample, variant
time_spans.py    time in which rows were with an engine, without pauses between starts
filesystem.py    local and remote file systems, durable writing
remote.py        one error for all failures of remote file systems
failpoints.py    points at which a test kills the process
"""
