"""Makes the private buckets through the Storage API. Repeatable: `python -m scripts.seed`.

Buckets are objects of the platform, so no migration makes them. Migrations seed the catalogue.
"""

import asyncio
import sys
from typing import Any

import httpx
from storage3.exceptions import StorageApiError

from core.settings import Settings, SettingsError, load_settings
from core.storage.supabase import SupabaseStorage
from core.uploads.types import DECLARABLE

# Above what people may send (25 MB, checked by us): a normalised photo with transparency is a
# PNG, and larger than its WebP or HEIC. Below the 50 MB that the platform's free plan allows.
UPLOAD_BYTES_MAX = 50_000_000
RESULT_TYPES = ("image/jpeg", "image/png", "image/webp")


def bucket_options(settings: Settings) -> dict[str, dict[str, Any]]:
    """Results have no limit but the project's, because an upscaled PNG is large."""
    return {
        settings.storage_bucket_uploads: {
            "public": False,
            "file_size_limit": UPLOAD_BYTES_MAX,
            "allowed_mime_types": sorted(DECLARABLE),
        },
        settings.storage_bucket_results: {
            "public": False,
            "file_size_limit": None,
            "allowed_mime_types": list(RESULT_TYPES),
        },
    }


async def ensure_buckets(settings: Settings, http: httpx.AsyncClient) -> list[str]:
    """Create or correct the buckets; their names. Raises: StorageApiError, httpx.HTTPError."""
    client = SupabaseStorage(settings, http).client
    wanted = bucket_options(settings)
    for name, options in wanted.items():
        try:
            await client.create_bucket(name, options=options)  # type: ignore[arg-type]  # its TypedDict has no null
        except StorageApiError as error:
            if str(error.status) != "409":
                raise
            await client.update_bucket(name, options)  # type: ignore[arg-type]  # as above
    return list(wanted)


async def _main(settings: Settings) -> None:
    async with httpx.AsyncClient(timeout=15) as http:
        for name in await ensure_buckets(settings, http):
            print(f"bucket {name}: ready")


def main() -> int:
    try:
        asyncio.run(_main(load_settings()))
    except SettingsError as error:
        print(f"seed: {error}", file=sys.stderr)
    except (StorageApiError, httpx.HTTPError) as error:
        print(
            f"seed: storage did not make the buckets ({type(error).__name__}: {error}); check "
            "SUPABASE_URL and SUPABASE_SECRET_KEY",
            file=sys.stderr,
        )
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
