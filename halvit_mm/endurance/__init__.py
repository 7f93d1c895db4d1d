"""Long runs, watched from outside: whether memory, open files, threads and files on disk grow.

:mod:`~halvit_mm.endurance.usage` reads what a process takes, :mod:`~halvit_mm.endurance.watching`
does so again and again, and :mod:`~halvit_mm.endurance.trend` says how fast it grows.
:mod:`~halvit_mm.endurance.training`, :mod:`~halvit_mm.endurance.predicting` and
:mod:`~halvit_mm.endurance.page` are what is watched: the project's own commands, as users start
them. It needs Linux, whose ``/proc`` it reads.
"""
