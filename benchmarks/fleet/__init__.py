"""One sweep over many hosts, on Dask distributed. Begin here; ``python -m benchmarks fleet`` is the way in.

``cluster``      finds the hosts: workers of this box, of a Dask scheduler, or begun through SSH.
``hosts``        is what the coordinator knows of each: what it declared, has, and may therefore measure.
``share``        is what the hosts of one machine class measure together, and the record of it.
``coordinator``  gives a slice of a share to each box that is idle, and writes down every line that arrives.
``on_host``      runs there, inside of a Dask worker: it says what the host is, and measures a slice.
``plan``         tells how long that would take, ``report`` what it came to.
"""
