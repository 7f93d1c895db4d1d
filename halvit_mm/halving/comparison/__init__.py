"""Halving compared with its controls, by one command that continues where it stopped.

:mod:`.experiment` says which trainings there are, :mod:`.jobs` runs them, :mod:`.results` collects
what came of them, :mod:`.targets` judges it, and :mod:`.report` and :mod:`.chart` show it.
"""
