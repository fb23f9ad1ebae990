"""What stops a migration, said in words a person can act on."""


class MigrationError(Exception):
    """Nothing further was applied; the message says what to do."""
