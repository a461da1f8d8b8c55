"""What measures models. Knows neither Ray nor run folders: plain values in, plain values out.

Imports schemas and services; write `from eval.x import ...`, since the name shadows a builtin.

intervals.py         rates and differences with their intervals
sentiment.py         the emotions of responses, by the emotions of their prompts
responses.py         how long and how varied texts are
preference.py        what respondents of a blind questionnaire chose, by model
returned_answers.py  reads the answers that came back
blimp.py             which sentences of BLiMP's minimal pairs a model finds likelier, by phenomenon
harness.py           any other task of lm-evaluation-harness: the one file that touches lm_eval
logit_lens.py        what a model would say next after each of its layers
"""
