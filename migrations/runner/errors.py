"""What stops a migration, with messages that a person can act on."""


class MigrationError(Exception):
    """Nothing further was applied; the message says what to do."""
