"""The one exception that stands for a mistake of the user's, not of the program's."""


class UserError(Exception):
    """Something the user can put right.

    The message is one clear sentence (a list of details may follow on further lines) that names the
    file or option at fault and the cure. The commands in ``tools/`` print it and exit with status 2
    instead of showing a traceback.
    """
