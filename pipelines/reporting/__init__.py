"""The verb `report`: what a study found, from the result files of its runs alone; one HTML page, and Markdown.

report.py        the call `report` and its result
folders.py       the runs of a report, and the record of a study
trainings.py     the training and the data behind an evaluated model
evaluations.py   results of several evaluations, side by side where they were measured in the same way
changes.py       each student against its base
answers.py       the paper's questions, answered in the first lines
seeds.py         the mean of students that are one training with several seeds
students.py      each student against its base, as a table
paper_tables.py  the paper's tables, with its values (paper.json) beside ours
further_tables.py  EmoBench, and tasks of lm-eval
charts.py        the figures: their data, and the same as tables
svg.py           draws a figure
curves.py        loss curves of trainings, throughput and rejects of augmentations
samples.py       responses of base and students to the same prompts, and rows of augmentations
lineage.py       what each run was made from and with, its time, tokens and cost
html_page.py     the page (report.html.jinja, report.js), and Markdown
terminal_page.py  the answers and tables for a terminal
"""
