"""Input rows: from files and datasets to rows of plain values.

reader.py           all sources of an `input` section as one sequence of rows
columns.py          the columns that are read of each source
files.py            the files that an `input` section names
file_choice.py      which files of a folder or glob are data
formats.py          the table of file formats
sources.py          what all sources of rows have in common
lines.py            files with a row in each line, read with little memory
compression.py      compressed files
encodings.py        text files in other encodings than UTF-8
other_content.py    files that are something else than their name says
saved_dataset.py    folders that `save_to_disk` of Hugging Face datasets wrote
class_labels.py     names of class labels, which datasets store as numbers
parquet_format.py   Parquet
arrow_format.py     Arrow
jsonl_format.py     JSON Lines
json_format.py      one JSON list of objects
csv_format.py       CSV and TSV
csv_records.py      records of CSV and TSV files, with quotes or without
text_format.py      plain text
hugging_face.py     Hugging Face datasets
cells.py            checks of single values: text, emotion
conversations.py    checks of chat messages and tools
minimal_pairs.py    files of BLiMP and EWoK: minimal pairs by paradigm
emobench.py         files of EmoBench: items by task and category
near_duplicates.py  finds texts that say almost the same as an earlier one
"""
