"""Parts that the pages and cards of all verbs share.

html.py      renders a page from its template and base.html.jinja (head, content rules, colours, headings)
             and plots.html.jinja (bars, heat maps)
emotions.py  heat maps of emotions asked for against emotions expressed
markdown.py  values in Markdown, which no character of theirs ends
tables.py    tables of figures with their intervals, for the terminal, in Markdown and in notebooks
"""
