"""Models that are loaded to score texts, and where checkpoints come from.

checkpoints.py      from the name of a model to its checkpoint and revision
embedded.py         the models that Python packages ship
classifier.py       emotion classifiers: texts in, a score for each label out
emotion_head.py     the classifiers that Kindling ships: a head on a sentence encoder (shipped_head/), or on words
word_head.py        the head on words (shipped_words/)
document_scores.py  emotions of long texts, from the scores of their passages or sentences
sentence_encoder.py  how near the meanings of two texts are
bounded_jinja.py    Jinja's sandbox with counts of work, for chat templates and prompts
chat_templates.py   bounds the work of models' chat templates
causal_lm.py        loads a causal language model with its tokenizer
diverged.py        refuses a model whose numbers are NaN
continuations.py    log-likelihoods of the ends of sequences, and of the options of a question
minimal_pairs.py    log-likelihoods of minimal pairs
prefix_trees.py     log-likelihoods of token sequences, shared beginnings computed once
"""
