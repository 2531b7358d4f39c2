"""The dedicated VM: the host's own files under another kernel. Nothing else in the project knows this room.

What a caller needs: `tracer.vm.kernels.resolve("debian"|"racy"|"stock"|path)` names a kernel, and
`tracer.vm.machine.boot(kernel)` gives a machine in which several commands can be run.
"""
