"""Input rows: from paths and datasets to rows of plain values.

reader.py           all files of an `input` section as one sequence of rows
files.py            the files that an `input` section names
formats.py          readers of Parquet, JSONL, JSON, CSV, text, and Hugging Face datasets
lines.py            lines and CSV records of bounded size, with their quotes
cells.py            checks of single values: text, emotion, chat messages
minimal_pairs.py    BLiMP files: minimal pairs by paradigm
near_duplicates.py  finds texts that say almost the same as an earlier one
"""
