"""Publishes results of runs: datasets, sets of prompts, cards, uploads.

export.py          `kindling export`: a dataset in Parquet or JSONL
export_prompts.py  `kindling export --format prompts`: a set of evaluation prompts
hub.py             `kindling push`: uploads a trained model to the Hugging Face Hub
dataset_card.py    dataset cards of runs and composed corpora
model_card.py      model cards
"""
