"""`kindling train`: jobs that fine-tune language models, or train an emotion classifier.

train.py           the verb: one job in this process
language_model.py  a job that trains a language model, stage after stage
stage.py           one of its stages, and the report on it
rows.py            rows that a stage trains on, and rows held out
classifier.py      a job that trains an emotion classifier
labelled_texts.py  texts with emotions for a classifier
folder.py          the folder of a training: train.json, log, checkpoints
on_ray.py          several jobs at once, each as a Ray task
ray_task.py        the Ray task of one job
"""
