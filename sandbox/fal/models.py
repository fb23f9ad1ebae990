"""The endpoints of the sandbox: input schema, price, and which renderer computes the output."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from sandbox.fal.inputs import (
    BackgroundReplaceInput,
    BirefnetInput,
    ClarityInput,
    EsrganInput,
    ImageOnlyInput,
    Input,
    KontextInput,
    NanoBanana2Input,
    NanoBananaInput,
    NanoBananaProInput,
    ProductShotInput,
    QwenEditInput,
    RembgInput,
    SeedreamInput,
    SeedvrInput,
    TopazInput,
    WorkflowInput,
)

NAMESPACES = frozenset({"workflows", "comfy"})


class RunOutput(msgspec.Struct, frozen=True):
    """What the price of a finished run depends on."""

    params: Mapping[str, Any]
    images: int
    megapixels: float
    seconds: float


def _per_image(output: RunOutput) -> float:
    return float(output.images)


def _per_megapixel(output: RunOutput) -> float:
    return float(max(1, math.ceil(output.megapixels)))


def _per_compute_second(output: RunOutput) -> float:
    return round(output.seconds, 4)


_RESOLUTION_FACTOR = {"0.5K": 0.75, "1K": 1.0, "2K": 1.5, "4K": 2.0}


def _nano_banana_2(output: RunOutput) -> float:
    factor = _RESOLUTION_FACTOR[output.params["resolution"]]
    extra: float = 0.015 * output.params["enable_web_search"]
    extra += 0.002 * (output.params["thinking_level"] == "high")
    return output.images * factor + extra / 0.08


def _nano_banana_pro(output: RunOutput) -> float:
    return output.images * (2.0 if output.params["resolution"] == "4K" else 1.0)


Renderer = Literal["cutout", "scene", "upscale"]


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """`many`: the output is `images: [...]`, otherwise `image: {...}`.

    `extras` names the additional output keys (seed, timings, prompt, has_nsfw_concepts ...).
    """

    id: str
    schema: type[Input]
    renderer: Renderer
    unit: str
    unit_price: float
    units: Callable[[RunOutput], float]
    many: bool = False
    extras: tuple[str, ...] = ()
    input_bytes_max: int = 50 * 1024 * 1024


_REMOVE_PRICE = 0.018
_ENDPOINTS = (
    Endpoint(
        id="fal-ai/birefnet/v2",
        schema=BirefnetInput,
        renderer="cutout",
        unit="compute seconds",
        unit_price=0.0008,
        units=_per_compute_second,
    ),
    Endpoint(
        id="fal-ai/bria/background/remove",
        schema=ImageOnlyInput,
        renderer="cutout",
        unit="generations",
        unit_price=_REMOVE_PRICE,
        units=_per_image,
    ),
    Endpoint(
        id="fal-ai/imageutils/rembg",
        schema=RembgInput,
        renderer="cutout",
        unit="compute seconds",
        unit_price=0.0008,
        units=_per_compute_second,
    ),
    Endpoint(
        id="fal-ai/nano-banana-2/edit",
        schema=NanoBanana2Input,
        renderer="scene",
        unit="images",
        unit_price=0.08,
        units=_nano_banana_2,
        many=True,
        extras=("description",),
    ),
    Endpoint(
        id="fal-ai/nano-banana/edit",
        schema=NanoBananaInput,
        renderer="scene",
        unit="images",
        unit_price=0.039,
        units=_per_image,
        many=True,
        extras=("description",),
    ),
    Endpoint(
        id="fal-ai/nano-banana-pro/edit",
        schema=NanoBananaProInput,
        renderer="scene",
        unit="images",
        unit_price=0.15,
        units=_nano_banana_pro,
        many=True,
        extras=("description",),
    ),
    Endpoint(
        id="fal-ai/bytedance/seedream/v4/edit",
        schema=SeedreamInput,
        renderer="scene",
        unit="images",
        unit_price=0.03,
        units=_per_image,
        many=True,
        extras=("seed",),
    ),
    Endpoint(
        id="fal-ai/flux-pro/kontext",
        schema=KontextInput,
        renderer="scene",
        unit="images",
        unit_price=0.04,
        units=_per_image,
        many=True,
        extras=("timings", "seed", "has_nsfw_concepts", "prompt"),
    ),
    Endpoint(
        id="fal-ai/qwen-image-edit",
        schema=QwenEditInput,
        renderer="scene",
        unit="megapixels",
        unit_price=0.03,
        units=_per_megapixel,
        many=True,
        extras=("timings", "seed", "has_nsfw_concepts", "prompt"),
    ),
    Endpoint(
        id="fal-ai/clarity-upscaler",
        schema=ClarityInput,
        renderer="upscale",
        unit="megapixels",
        unit_price=0.03,
        units=_per_megapixel,
        extras=("timings", "seed"),
    ),
    Endpoint(
        id="fal-ai/esrgan",
        schema=EsrganInput,
        renderer="upscale",
        unit="compute seconds",
        unit_price=0.00111,
        units=_per_compute_second,
    ),
    Endpoint(
        id="fal-ai/topaz/upscale/image",
        schema=TopazInput,
        renderer="upscale",
        unit="megapixels",
        unit_price=0.01,
        units=_per_megapixel,
    ),
    Endpoint(
        id="fal-ai/seedvr/upscale/image",
        schema=SeedvrInput,
        renderer="upscale",
        unit="megapixels",
        unit_price=0.001,
        units=_per_megapixel,
        extras=("seed",),
    ),
    Endpoint(
        id="fal-ai/recraft/upscale/crisp",
        schema=ImageOnlyInput,
        renderer="upscale",
        unit="images",
        unit_price=0.004,
        units=_per_image,
    ),
    Endpoint(
        id="fal-ai/bria/product-shot",
        schema=ProductShotInput,
        renderer="scene",
        unit="generations",
        unit_price=0.04,
        units=_per_image,
        many=True,
        input_bytes_max=12 * 1024 * 1024,
    ),
    Endpoint(
        id="fal-ai/bria/background/replace",
        schema=BackgroundReplaceInput,
        renderer="scene",
        unit="generations",
        unit_price=0.04,
        units=_per_image,
        many=True,
        extras=("seed",),
    ),
)

ENDPOINTS: Mapping[str, Endpoint] = {endpoint.id: endpoint for endpoint in _ENDPOINTS}

_WORKFLOW = Endpoint(
    id="workflows",
    schema=WorkflowInput,
    renderer="scene",
    unit="units",
    unit_price=0.0,
    units=_per_image,
    many=True,
)


def find_endpoint(endpoint_id: str) -> Endpoint | None:
    found = ENDPOINTS.get(endpoint_id)
    if found is None and endpoint_id.split("/", 1)[0] in NAMESPACES:
        return _WORKFLOW
    return found
