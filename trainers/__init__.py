"""Training of models. Imports schemas and services.

language_model.py      a causal language model by TRL: the only file that imports trl
emotion_classifier.py  an emotion classifier: a head on a sentence encoder, or a whole sequence classifier
text_encoder.py        the sentence encoder of an emotion classifier: features of texts
initial_model.py       the model that a training starts from: loaded or new, with a tokenizer fit for training
rows.py                rows that examples are made of: documents, prompts with completions, conversations
examples.py            from texts to token ids, in files that may be larger than memory
length_batches.py      order of examples by length, so that batches hold little padding
completion_loss.py     loss and logits computed only where a token has a label
memory_errors.py       errors of full memory and full disks, turned into messages with a remedy
callbacks.py           callbacks of the trainer: progress, stopping, durable checkpoints
grammar_guard.py       minimal pairs scored during a training, which stop it where grammar is lost
progress.py            loss, speed and time left of a training: terminal, Prometheus, TensorBoard
thresholds.py          thresholds of a multi-label classifier, and F1 at them
"""
