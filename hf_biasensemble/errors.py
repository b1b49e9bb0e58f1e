"""The one exception type of the library."""


class BiasEnsembleError(ValueError):
    """A mistake in the input that the user can mend.

    The message is one line: what was expected, what was found and what to do. The command line prints it without a
    traceback and ends with exit status 2.
    """
