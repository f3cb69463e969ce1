"""The findings: what a recorded run says, as a page, a table or a figure.

``python -m reports build`` writes one offline HTML page, Markdown with figures, CSV and JSON,
and the results table of the README; ``pick`` answers for one layer or a network, ``import`` takes other
machines' records, ``decompose`` takes one layer apart on a photograph. Nothing
here runs a benchmark: a report is a function of its records, and the same records give the same bytes.
"""
