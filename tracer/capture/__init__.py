"""`eofrace trace`: record what processes that already exist, or a command, do to files, for as long as it takes.

`processes` says whose operations, `parts` keeps them in memory or in files of bounded size, `paths` names the files,
`run` is the loop between attaching and the last operation, `result` what it comes to.
"""
