"""Parts that the HTML pages of all verbs share.

html.py  renders a page from its template and base.html.jinja (head, content rules, colours, headings)
"""
