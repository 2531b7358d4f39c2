"""One file per form of output; each takes results and prints them, and knows nothing of how they came about."""
