"""eofrace: sees in the kernel, and judges, whether growing, zeroing and writing one file at once loses data."""
