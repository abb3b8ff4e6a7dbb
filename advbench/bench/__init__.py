"""Plan, run, judge, store and tabulate evaluations."""
