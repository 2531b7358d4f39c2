"""Every schedule of a small guest workload, not only those that happened: search, judgement, counterexamples.

blockstack runs on the simulated file systems of `blockstack.sim`; what is left to chance there is chosen here.
"""
