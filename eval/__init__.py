"""Measures of models: plain values in, plain values out. Knows neither Ray nor run folders.

Imports schemas and services. The name shadows a builtin: write `from eval.blimp import ...`, never `import eval.blimp`.

sentiment.py        emotions of responses, by the emotions of their prompts
variety.py          length and variety of texts
blimp.py            accuracy on minimal pairs, by phenomenon
emobench.py         accuracy on EmoBench's multiple choice, beside chance
preference.py       which model respondents of a blind questionnaire preferred
questionnaire.py    writes a blind questionnaire (HTML page and key), and reads the answers sent back
blind_page.py       what blind pages share: the page itself, its files, the files that respondents send back
lm_eval_harness.py  tasks of lm-evaluation-harness: the only file that imports lm_eval
logit_lens.py       the next token that each layer of a model would predict
intervals.py        confidence intervals of rates and differences
agreement.py        Cohen's kappa of labels with readings of the same texts
stratified.py       figures of a whole from a sample that was drawn by group, with intervals; Cohen's kappa
"""
