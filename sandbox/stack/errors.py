"""What can go wrong with the local servers, with messages that a person can act on."""


class StackError(Exception):
    """A local server could not be made, started or stopped; the message says what to do."""
