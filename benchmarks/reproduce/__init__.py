"""Somebody published times. Are they so here? ``python -m benchmarks reproduce`` is the way in.

``published``  reads records, checks each against itself, and draws cells that can be measured here.
``again``      measures these as ``compare`` does.
``agreement``  is the statistics: whether two samples of rounds agree, whether two rankings do.
``verdict``    holds what is measured to what was published, cell by cell and on the whole.
``words``      tells it to a person.
"""
