"""What runs, judges and reports the experiments, and none of what they are about.

`registry` finds and runs them, `all` runs every one; `settings`, `record`, `unfinished`, `ledger`
and `tables` are what an experiment uses; `runs`, `values` and `page` make the page of many runs.
"""
