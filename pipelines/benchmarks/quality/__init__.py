"""`kindling bench quality`: the loop that makes rows good, beside the same job without it.

bench.py   the bench: emotions asked for, tokens, speed, the judge's cost
replay.py  early stops, replayed over recorded texts: what they save, and whether a good text would have been ended
"""
