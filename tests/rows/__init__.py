"""The rows of the shared checks, a family a file; they import neither pytest nor hypothesis.

A file bears the name of its golden arrays, tests/golden/FAMILY.npz.
"""
