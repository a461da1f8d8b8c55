"""`kindling bench train`: training beside TRL's SFTTrainer.

bench.py  both trainers in alternating order, and each of Kindling's changes switched off alone
arm.py    one run of one trainer, in a process of its own
"""
