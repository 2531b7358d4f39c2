"""`verify --held`: schedules that are chosen, not hoped for, on a disk that holds writes in flight (`tracer.lab.held`).

One zero-write F and one write W behind it, in two orders: F first, so that the strategy has to hold W off, and W first,
so that F has to wait for it. `cases` says what W is (guest data, a new L2 table, a new refcount block) and how far
behind; `rounds` plays one such pair; `cell` plays and judges all rounds of a case; `matrix` runs strategies x
behaviours of fallocate x cases.
"""
