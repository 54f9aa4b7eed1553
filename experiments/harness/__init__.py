"""The program that runs, judges and reports the experiments, without their subjects.

`registry` finds and runs experiments, and `all` runs every one. An experiment uses `settings`,
`record`, `unfinished`, `ledger` and `tables`; `runs`, `values` and `page` make the page of many
runs.
"""
