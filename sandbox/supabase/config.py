"""What a Supabase stand-in is configured with at its start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

# What the platform has on by default: some requests an address, the project's mails an hour with an
# own sender, and the minute between two mails to one address.
PLATFORM_LIMITS: Final[Mapping[str, Any]] = {
    "rate_limits_enabled": True,
    "emails_per_hour_max": 30,
    "email_interval_seconds": 60,
}


class SupabaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Readable from JSON (`--config FILE`); only the first seven fields have no default.

    The limits that Supabase has on by default are off here, so that a test of hundreds of users
    is not a test of the stand-in's limiter; PLATFORM_LIMITS turns them on.
    """

    base_url: str  # what the product calls SUPABASE_URL
    site_url: str  # where the mails' links lead
    data_dir: Path  # keys and object bytes; survives a restart
    auth_database_url: str  # login supabase_auth_admin
    storage_database_url: str  # login supabase_storage_admin
    publishable_key: str
    secret_key: str

    jwt_secret: str | None = None  # set = a legacy project: HS256 tokens and an empty JWKS
    jwt_expiry_seconds: int = 3600
    redirect_allow_list: tuple[str, ...] = ()
    signup_enabled: bool = True
    autoconfirm: bool = False
    secure_email_change: bool = True
    otp_expiry_seconds: int = 3600
    otp_length: int = 8  # as MIGRATION_GUIDE.md sets it up; a new project has 6
    password_length_min: int = 6
    # Cost of one hash: 2**12 is about 10 ms. A hosted project spends ten times as much.
    password_cost_log2: int = 12
    reauthentication_required: bool = False
    current_password_required: bool = False
    refresh_reuse_seconds: float = 10
    totp_enabled: bool = True

    email_interval_seconds: float = 0
    emails_per_hour_max: int | None = None
    rate_limits_enabled: bool = False

    send_email_hook_url: str | None = None
    send_email_hook_secret: str | None = None  # v1,whsec_<base64>, several joined by |

    upload_bytes_max: int = 50 * 1024 * 1024
    signed_upload_seconds: int = 7200

    auth_pool_size: int = 4
    storage_pool_size: int = 6

    @property
    def issuer(self) -> str:
        return f"{self.base_url}/auth/v1"


def encode_config(config: SupabaseConfig) -> bytes:
    """For `--config FILE`; the file holds passwords and keys, so keep it to its owner."""
    return msgspec.json.encode(config, enc_hook=str)


def read_config(path: Path) -> SupabaseConfig:
    """Raises: OSError, msgspec.DecodeError."""

    def decode(kind: type[Any], value: Any) -> Any:
        return kind(value)

    return msgspec.json.decode(path.read_bytes(), type=SupabaseConfig, dec_hook=decode)
