"""`verify --format`: what the thread says of everything but qcow2, put to the test.

"I don't see any other image format (but qcow2, raw, and filters) creating zero-writes apart from the parallels format
which does so before writes can happen to that area. [...] Raw and filters do not initiate zero-writes on their own.
[...] Block jobs and guests are limited to generally fixed-size disks" (Max Reitz, 28 October 2019).

So each of them runs with no workaround at all (strategy `none`), and must not have a data write in the kernel behind an
ongoing post-EOF fallocate. One file a format; in it a *subject* for each case, and its control: the same guest and the
same seed, where what the claim rests on is taken away.

`raw`
    rests on the file having the disk's full length; in the control it begins with one cluster and grows.
`filter`, case `raw`
    rests on filters handing on what they are given; the control is that of `raw`, below the same filters.
`filter`, case `overlay`
    rests on copy-on-read storing whole clusters, and zeroes by a zero-write of the overlay; in the control it stores,
    as data, what was read and no more.
`parallels`
    rests on the file growing under the lock that every allocation takes; in the control nobody holds it while clusters
    are zeroed, and those that are overwritten are not.
`mirror`, case `raw`
    rests on the target having been made with its full length; in the control it begins with one
    cluster.
`mirror`, cases `qcow2` and `qcow2-128k`
    rest on one bit of the dirty bitmap being one cluster of the target; in the control it is 4 KiB.

In `qcow2-128k` that is not so by QEMU's own default, a bit of at most 64 KiB: see docs/findings/formats.md.

The verdicts are those of a strategy (tracer/analysis/verdict.py), with one difference. A *conflict* is a pair of two
guest requests (of a mirror: two operations of the job) in flight together, of which one had a fallocate that sets
sizes and the other one a write that ends behind it. Where nothing was zero-written at all, it is a pair of which one
made the file grow and the other one wrote behind that: had the first been zeroed before, the pair would have been
exposed. A cell without enough of them proves nothing.
"""
