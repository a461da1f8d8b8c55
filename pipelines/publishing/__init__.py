"""What leaves a run: datasets, prompt sets, cards, uploads.

export.py          `kindling export`: Parquet or JSONL
export_prompts.py  `kindling export --format prompts`: a set of evaluation prompts
hub.py             `kindling push`: a trained model to the Hugging Face Hub
dataset_card.py    dataset cards of runs and composed corpora
model_card.py      model cards
"""
