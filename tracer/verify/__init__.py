"""The main job: the guest workload through blockstack, once per cell of the matrix, judged on evidence.

`ground` finds out what the host can do and makes the scratch file system, `cell` runs one cell, `evidence` joins what
the driver says with what the kernel saw, `readback` compares what is on the disk with the oracle, `matrix` runs all.
"""
