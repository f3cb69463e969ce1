"""Python kernels: the definition and nothing else.

Reading order
    naive   seven nested loops over plain floats

Read it first: every other kernel of this project reorders, blocks or hands over these seven loops.
NumPy serves here only as a box for the numbers.
"""
