"""Fine-tuning jobs. Imports schemas and services.

emotion_classifier.py  a head on a sentence encoder, or both
language_model.py      a causal language model, on TRL: the one file that touches trl
labelled_head.py       logits and losses where there is a label, on a CPU
causal_model.py        loads one or makes a new one, with a tokenizer that has what training takes
progress.py            how far it is: terminal, Prometheus, TensorBoard
watching.py            tells it of that, stopping, durable checkpoints
grammar.py             whether a model still has its grammar
by_length.py           the order of examples
examples.py            from texts to token ids, in files that may be larger than memory
thresholds.py          thresholds of a multi-label classifier, and F1 at them
"""
