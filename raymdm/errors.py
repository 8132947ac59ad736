"""The one exception for what a user can cause and can mend."""


class UserError(ValueError):
    """Bad input: the message names the file, field or row, what was expected and what to do.

    The command line prints the message alone and exits with status 2.
    """
