"""A report as a Perfetto trace, in its native protobuf: for ui.perfetto.dev, beside other traces of the same kernel.

- Every operation is a slice on a track of its thread, and those that touch a file are one on a track of the file, too.
  Operations in flight together are on tracks of the same name side by side: slices of one track must nest.
- Flows lead from what was waited for to what waited: from a zero-write to the writes that it delayed.
- A track for each recording says its verdict, what was dropped, and what is doubtful; hazards are instants on it.

Times are CLOCK_MONOTONIC, and a clock snapshot says so: the trace processor aligns them with any trace that relates
that clock to its own, as those of traced(1) do.
"""

from tracer.report.perfetto.write import write as write
