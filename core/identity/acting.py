"""Who may act at this moment, whatever the token said when it was issued.

The functions of the database that write ask by themselves. These are for what has none: a route
that lets a person in at a vendor, and the first word to an admin.
"""

from core.db import Connection


async def require_person(conn: Connection) -> None:
    """To be asked in the person's scope.

    Raises: NoIdentityError where the session has ended; NotAllowedError where the person is banned.
    """
    await conn.execute("select app.require_person()")


async def require_admin(conn: Connection) -> None:
    """To be asked in the admin's scope.

    Raises: NoIdentityError where the session has ended; NotAllowedError where the role, the second
    factor or the account is gone.
    """
    await conn.execute("select app.require_admin()")
