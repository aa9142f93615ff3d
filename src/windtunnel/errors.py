"""The one error that a person meets."""


class InputError(Exception):
    """Something that a person typed or pointed to is wrong. One line: what, where, what was expected.

    The command line prints it on stderr and exits with 2; nothing half-written is left behind.
    """
