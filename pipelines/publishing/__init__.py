"""Publishes results of runs: datasets, sets of prompts, cards, uploads.

export.py          `kindling export`: a dataset with its card, or one file
columns.py         columns of an export
chat_formats.py    columns that trainers read: messages, alpaca, prompt-completion
reviewed_rows.py   verdicts of people on the rows of a run, and the rows that they accepted
splits.py          splits of an export by input row
data_files.py      file types of an export: Parquet, JSONL, CSV
export_prompts.py  `kindling export --format prompts`: a set of evaluation prompts
removed_rows.py    rows that `kindling dedup` removed from a run
hub.py             `kindling push`: uploads a trained model or a dataset to the Hugging Face Hub
card_filters.py    rules that refused texts, with counts, and known limits, for a dataset's card
card_verdicts.py   judges with their rubrics, and verdicts of people, for a dataset's card
card_header.py     the YAML header of cards, and names on the Hub
run_card.py        the card of a run, renewed with each commit
dataset_card.py    dataset cards of runs and composed corpora
model_card.py      model cards
"""
