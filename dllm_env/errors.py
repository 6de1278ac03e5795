"""The one exception that means "the input is wrong, and here is what to do about it"."""


class UsageError(ValueError):
    """Bad input from the user; its message is one line that says what was wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
