"""What the program says of itself, as documents made of its code: man pages, the pages of docs/reference, and the
schemas of its JSON. `python -m tracer.reference` writes all of them anew; a test fails where that would change one.
"""
