"""The Storage server's refusals: HTTP 400 for nearly all, the true status a string in the body."""

import msgspec


class StorageError(Exception):
    def __init__(
        self, status: int, error: str, message: str, code: str, *, http_status: int = 400
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.http_status = http_status
        self.body = msgspec.json.encode(
            {"statusCode": str(status), "error": error, "message": message, "code": code}
        )


def invalid_request(message: str) -> StorageError:
    return StorageError(400, "Error", message, "InvalidRequest")


def missing_property(place: str, name: str) -> StorageError:
    return invalid_request(f"{place} must have required property '{name}'")


def no_such_key() -> StorageError:
    return StorageError(404, "not_found", "Object not found", "NoSuchKey")


def no_such_bucket() -> StorageError:
    return StorageError(404, "Bucket not found", "Bucket not found", "NoSuchBucket")


def access_denied(message: str, *, http_status: int = 400) -> StorageError:
    return StorageError(403, "Unauthorized", message, "AccessDenied", http_status=http_status)


def row_refused() -> StorageError:
    return access_denied("new row violates row-level security policy")


def already_exists(code: str = "KeyAlreadyExists") -> StorageError:
    return StorageError(409, "Duplicate", "The resource already exists", code)


def too_large() -> StorageError:
    message = "The object exceeded the maximum allowed size"
    return StorageError(413, "Payload too large", message, "EntityTooLarge")


def wrong_mime(mime: str) -> StorageError:
    message = f"mime type {mime} is not supported"
    return StorageError(415, "invalid_mime_type", message, "InvalidMimeType")


def invalid_key(key: str) -> StorageError:
    return StorageError(400, "InvalidKey", f"Invalid key: {key}", "InvalidKey")


def invalid_signature() -> StorageError:
    return StorageError(400, "InvalidSignature", "Invalid signature", "InvalidSignature")


def invalid_jwt(message: str) -> StorageError:
    return StorageError(400, "InvalidJWT", message, "InvalidJWT")
