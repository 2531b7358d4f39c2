"""Numbers for people."""


def size(count: int) -> str:
    """Bytes, in the largest unit that is exact."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and not count & ((1 << shift) - 1):
            return f"{count >> shift} {unit}"
    return f"{count} B" if count else "0"
