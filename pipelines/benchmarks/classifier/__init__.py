"""`kindling bench classifier`: the shipped emotion classifiers, their trainer, and how fast texts are scored.

bench.py        all parts and their goals
agreement.py    agreement of classifiers with two readings of 200 texts
readings.jsonl  those texts and readings; README.md says how they were made
"""
