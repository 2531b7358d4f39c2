"""The real QEMU as the driver under test: the same guest, oracle and rules, and a `qemu-storage-daemon` in the middle.

`daemon` starts and ends it, `client` speaks NBD to it, `evidence` finds out from the kernel's trace which guest request
caused which operation and which of them it kept apart, `play` and `cell` do what their namesakes do for blockstack.
"""
