"""Scratch file systems that leave nothing behind, however the process that asked for them ends."""
