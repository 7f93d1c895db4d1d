"""What the commands in ``tools/`` share."""

import sys
from collections.abc import Callable

from .errors import UserError


def run(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and exits with its status (0 for None).

    A :class:`UserError` becomes one line on stderr and status 2; Ctrl-C becomes status 130.
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status or 0)
