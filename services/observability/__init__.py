"""Output of a running job for people and for Prometheus: metrics, log lines, terminal.

metrics.py          the Prometheus endpoint of a job
endpoint_reader.py  reads the endpoint of a job in another process
series.py           the metrics of `augment`, `train` and `evaluate`
endpoint.py         serves the metrics of a job while it runs
scrape_targets.py   files by which Prometheus finds the jobs of this machine
logs.py             log lines on standard error, as text or JSON
streams.py          standard output and error that drop what cannot be printed
start_phases.py     phases of a job's start with their usual lengths, and the clock of the command
terminal.py         progress bar on a terminal, a line a minute elsewhere
"""
