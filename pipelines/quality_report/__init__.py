"""The verb `quality`: what of runs and files was accepted and why not, the emotions expressed, and how texts vary.

judged_rows.py    rows of a run or of files, each with its state and the rules that refuse it
accepted_rows.py  rows of a file that the rules accept, as JSONL
report.py         counts them, side by side: the call `quality` and its result
terminal_page.py  the tables of the terminal
html_page.py      the page with plots (report.html.jinja)

The rules themselves are in pipelines/quality_control/.
"""
