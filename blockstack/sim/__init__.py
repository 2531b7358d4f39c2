"""The driver on a simulated file, under a scheduler that decides everything that the outside world could decide.

`world.World` runs one schedule: it keeps the processes of the simulated kernel (system calls under way, each a few
atomic steps of a `models` file system) and the event loop in which blockstack runs unchanged; whoever drives it chooses
which process takes the next step. There is no clock, no thread and no randomness: the same choices give the same run.
"""
