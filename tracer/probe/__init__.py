"""Is this kernel's fallocate safe against asynchronous writes? Found out by a schedule that is chosen, not hoped for.

A write beyond EOF is held in flight on the held disk, fallocate is started below it, and what it does is watched
(`schedule`): by eBPF, and by the kernel stack of the thread. `repetition` is for file systems that no held disk can be
put under. `judge` says what an observation is worth; `run` does it for every file system and mode.
"""
