"""How fast the driver is: ratios against a named peer, measured in the same run on the same scratch file system.

`python -m bench blockstack` drives blockstack and `qemu-img bench` with the same requests. Each measurement is a
process of its own, rounds are interleaved, and what is printed is a ratio with an interval, never bare seconds.
"""

CONFIDENCE = 0.9
"""Of the intervals: they are for developers, and nothing is concluded from them."""
