"""The evidence behind the documentation: logs, what is shown of them, and how to make them again.

``docs/results/`` holds a log for each experiment. From there come the tables of the pages
(:mod:`.tables`), the plots (:mod:`.plots`), and each number that a sentence quotes
(:mod:`.numbers`). :mod:`.experiments` has the commands. Nothing here is imported when ``halvit_mm``
is.
"""
