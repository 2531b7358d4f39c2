"""`eofrace watch`: hear of dangerous pairs as they happen, for weeks.

The kernel's side (bpf/watch.c) lets only operations out that have met and must not have. `pairs` judges them by the
rule's own code, `run` is the loop, `result` what it comes to, `metrics` tells Prometheus.
"""
