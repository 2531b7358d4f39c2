"""`eofrace bench`: what each strategy costs, in a way that a noisy machine does not decide.

`workload` says what a guest does, `statistics` what may be concluded from rounds.
"""
