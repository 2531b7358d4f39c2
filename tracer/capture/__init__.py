"""`eofrace trace`: record what processes that already exist, or a command, do to files, for as long as it takes.

`targets` says whose operations on what, and until when (also for `eofrace watch`), `processes` follows them, `parts`
keeps operations in memory or in files of bounded size, `paths` names the files, `run` is the loop between attaching and
the last operation, `result` what it comes to.
"""
