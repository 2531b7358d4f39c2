"""Names from outside (files, processes, options) made fit for a terminal."""


def printable(text: str | bytes) -> str:
    """`text` on one line, without anything that a terminal would act on or hide.

    Control characters, line ends, bidirectional overrides and undecodable bytes become \\n, \\x1b, \\u202e: a hostile
    file name cannot move the cursor or pretend to be another line of the report. Ordinary text is unchanged.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def shortened(text: str, limit: int) -> str:
    """The same, cut off where it is longer than `limit` characters."""
    shown = printable(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte, as os.fsdecode gives it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
