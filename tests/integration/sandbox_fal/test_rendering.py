"""Outputs computed from the real input, wherever the input comes from."""

import base64
import http.server
import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.integration.sandbox_fal.support import CUTOUT, EDIT, Fal

SECONDS = 60  # the first render starts a process and loads the network


def photo(size: tuple[int, int] = (240, 180)) -> bytes:
    picture = Image.new("RGB", size, (196, 196, 200))
    box = (size[0] // 3, size[1] // 4, size[0] * 2 // 3, size[1] * 3 // 4)
    ImageDraw.Draw(picture).ellipse(box, fill=(170, 110, 20))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95)
    return out.getvalue()


def cut_piece() -> bytes:
    """A piece that is cut out already, so that nothing has to be found."""
    picture = Image.new("RGBA", (120, 90), (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((40, 20, 80, 70), fill=(170, 110, 20, 255))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def data_uri(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def fetch(file: dict[str, Any]) -> Image.Image:
    picture = Image.open(io.BytesIO(httpx.get(file["url"]).content))
    assert picture.size == (file["width"], file["height"])
    return picture


@pytest.fixture
def real(fal: Fal) -> Fal:
    fal.tune(prerendered=False)
    return fal


@pytest.fixture
def bucket() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A plain file server: (base URL, its files by path)."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.split("?", 1)[0])
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", files
    server.shutdown()
    server.server_close()
    thread.join()


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 422, response.text
    assert response.headers["x-fal-billable-units"] == "0"
    (detail,) = response.json()["detail"]
    assert detail["loc"] == ["body", "image_url"]
    assert detail["url"] == f"https://docs.fal.ai/errors/#{detail['type']}"
    found: dict[str, Any] = detail
    return found


@pytest.mark.slow
def test_cutout_keeps_size_and_cuts_the_piece_out(
    real: Fal, bucket: tuple[str, dict[str, bytes]]
) -> None:
    url, files = bucket
    files["/signed/ring.jpg"] = photo()
    body = {"image_url": f"{url}/signed/ring.jpg?token=x", "output_mask": True}
    ticket = real.submit(CUTOUT, body)

    output = real.result(ticket, SECONDS).json()
    piece, mask = fetch(output["image"]), fetch(output["mask_image"])
    alpha = np.asarray(piece.getchannel("A"))
    assert (piece.format, piece.mode, piece.size) == ("PNG", "RGBA", (240, 180))
    assert mask.size == piece.size
    assert alpha[90, 120] == 255
    assert alpha[5, 5] == alpha[170, 230] == 0
    # The same photo and parameters again: no second computation, the same bytes.
    again = real.result(real.submit(CUTOUT, body)).json()
    assert httpx.get(again["image"]["url"]).content == httpx.get(output["image"]["url"]).content


def test_scene_is_drawn_as_asked_and_depends_on_prompt_and_seed(real: Fal) -> None:
    def draw(prompt: str, seed: int) -> Image.Image:
        body = {
            "prompt": prompt,
            "image_urls": [data_uri(cut_piece())],
            "aspect_ratio": "4:3",
            "resolution": "0.5K",
            "output_format": "jpeg",
            "seed": seed,
        }
        output = real.result(real.submit(EDIT, body), SECONDS).json()
        picture = fetch(output["images"][0])
        assert picture.format == "JPEG"
        return picture

    marble = draw("white marble", 1)
    assert abs(marble.width / marble.height - 4 / 3) < 0.02
    assert (
        np.asarray(marble)[10, 10].mean() > 150 > np.asarray(draw("black velvet", 1))[10, 10].mean()
    )
    assert draw("white marble", 2).tobytes() != marble.tobytes()
    assert draw("white marble", 1).tobytes() == marble.tobytes()


def test_upscale_of_an_uploaded_file(real: Fal) -> None:
    begun = real.http.post(
        "/storage/upload/initiate", json={"content_type": "image/jpeg", "file_name": "a.jpg"}
    ).json()
    httpx.put(begun["upload_url"], content=photo())
    body = {"image_url": begun["file_url"], "upscale_factor": 3}
    ticket = real.submit("fal-ai/clarity-upscaler", body)

    output = real.result(ticket, SECONDS).json()
    assert fetch(output["image"]).size == (720, 540)
    assert output["seed"] == 42


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/closed.jpg",
        "http://192.0.2.7/outside.jpg",
        "https://example.com/outside.jpg",
        "file:///etc/hostname",
        "data:image/png;base64,???",
        "nonsense",
    ],
)
def test_unreadable_input(real: Fal, url: str) -> None:
    response = real.result(real.submit(CUTOUT, {"image_url": url}))

    assert error_of(response)["type"] == "file_download_error"


def test_missing_input_file(real: Fal, bucket: tuple[str, dict[str, bytes]]) -> None:
    response = real.result(real.submit(CUTOUT, {"image_url": f"{bucket[0]}/gone.jpg"}))

    assert error_of(response)["type"] == "file_download_error"


@pytest.mark.parametrize(
    ("content", "error_type"),
    [
        (b"no image at all", "image_load_error"),
        (photo()[:400], "image_load_error"),
        (photo((6, 6)), "image_too_small"),
    ],
)
def test_unusable_input(real: Fal, content: bytes, error_type: str) -> None:
    response = real.result(real.submit(CUTOUT, {"image_url": data_uri(content)}), SECONDS)

    assert error_of(response)["type"] == error_type


def test_input_larger_than_the_model_takes(real: Fal, bucket: tuple[str, dict[str, bytes]]) -> None:
    url, files = bucket
    files["/big.jpg"] = bytes(12 * 1024 * 1024 + 1)
    body = {"image_url": f"{url}/big.jpg", "scene_description": "marble"}

    error = error_of(real.result(real.submit("fal-ai/bria/product-shot", body), SECONDS))
    assert error["type"] == "file_too_large"
    assert error["ctx"] == {"max_size": 12 * 1024 * 1024}
