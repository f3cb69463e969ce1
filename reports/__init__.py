"""The findings: what a recorded run says, as a page, a table or a figure.

``python -m reports render RECORD.jsonl`` writes one offline HTML page and a Markdown summary,
``readme`` the results table of a README, ``decompose`` takes one layer apart on a photograph. Nothing
here runs a benchmark: a report is a function of its records, and the same records give the same bytes.
"""
