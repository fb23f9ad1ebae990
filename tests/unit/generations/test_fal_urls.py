import pytest

from core.generations.providers.fal.urls import app_of, on_queue_host, request_urls, same_origin

QUEUE = "https://queue.fal.run"


@pytest.mark.parametrize(
    ("endpoint", "app"),
    [
        ("fal-ai/birefnet", "fal-ai/birefnet"),
        ("fal-ai/birefnet/v2", "fal-ai/birefnet"),
        ("fal-ai/bytedance/seedream/v4/edit", "fal-ai/bytedance"),
        ("workflows/shop/scene", "workflows/shop/scene"),
        ("workflows/shop/scene/v2", "workflows/shop/scene"),
        ("comfy/shop/scene", "comfy/shop/scene"),
    ],
)
def test_requests_live_at_the_app(endpoint: str, app: str) -> None:
    assert app_of(endpoint) == app
    base = f"{QUEUE}/{app}/requests/r-1"
    assert request_urls(QUEUE, endpoint, "r-1") == (f"{base}/status", base, f"{base}/cancel")


@pytest.mark.parametrize("endpoint", ["birefnet", "", "workflows/shop", "fal-ai//v2"])
def test_what_is_no_endpoint_is_our_mistake(endpoint: str) -> None:
    with pytest.raises(AssertionError):
        app_of(endpoint)


def test_an_id_cannot_leave_its_place() -> None:
    assert request_urls(QUEUE, "a/b", "../../x?y")[1] == f"{QUEUE}/a/b/requests/..%2F..%2Fx%3Fy"


@pytest.mark.parametrize(
    ("url", "moved"),
    [
        (f"{QUEUE}/a/b/requests/c/status", f"{QUEUE}/a/b/requests/c/status"),
        ("https://old.example/a/b/requests/c", f"{QUEUE}/a/b/requests/c"),
        ("https://old.example/base/a/b/requests/c/cancel", f"{QUEUE}/a/b/requests/c/cancel"),
        (
            "https://old.example/workflows/a/b/requests/c/response",
            f"{QUEUE}/workflows/a/b/requests/c/response",
        ),
        ("https://old.example/a/requests/c", None),
        ("https://old.example/a/b/requests/c/else", None),
        ("https://old.example/", None),
        ("", None),
    ],
)
def test_a_request_of_another_base_url_is_asked_here(url: str, moved: str | None) -> None:
    assert on_queue_host(url, QUEUE) == moved


@pytest.mark.parametrize(
    ("url", "is_same"),
    [
        ("https://queue.fal.run/x", True),
        ("https://QUEUE.fal.run:443/x", True),
        ("http://queue.fal.run/x", False),
        ("https://queue.fal.run:8443/x", False),
        ("https://queue.fal.run.example/x", False),
        ("https://queue.fal.run@evil.example/x", False),
        ("https://user@queue.fal.run/x", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_same_origin(url: str, *, is_same: bool) -> None:
    assert same_origin(url, QUEUE) is is_same
