"""Our models against the best dense ones, side by side: time, memory, bytes.

:mod:`~halvit_mm.benchmark.comparisons` is the table of what is compared and what is expected;
:mod:`~halvit_mm.benchmark.measure` measures it, each model in a process of its own
(:mod:`~halvit_mm.benchmark.group`, :mod:`~halvit_mm.benchmark.subject`);
:mod:`~halvit_mm.benchmark.results` keeps it and forms the ratios, and
:mod:`~halvit_mm.benchmark.report` and :mod:`~halvit_mm.benchmark.chart` show them.
"""
