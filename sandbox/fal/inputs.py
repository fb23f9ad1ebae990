"""The inputs of the models as on fal's model pages; ranges where the page states them."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# A prompt with this word is refused like one that a content checker flagged.
FORBIDDEN_PROMPT_WORD = "forbidden-content"

ImageFormat = Literal["jpeg", "png", "webp"]
Safety = Literal["1", "2", "3", "4", "5", "6"]
Aspect = Literal["auto", "21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16"]
WideAspect = Aspect | Literal["4:1", "1:4", "8:1", "1:8"]
Preset = Literal[
    "square_hd",
    "square",
    "portrait_4_3",
    "portrait_16_9",
    "landscape_4_3",
    "landscape_16_9",
]
Urls = Annotated[list[str], Field(min_length=1)]


class Input(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    sync_mode: bool = False

    def image_urls_of(self) -> list[tuple[str, str]]:
        """Each input image as (field, url), in the order the model sees them."""
        many: list[str] = getattr(self, "image_urls", None) or []
        single: str | None = getattr(self, "image_url", None)
        found = [("image_urls", url) for url in many]
        return [("image_url", single), *found] if single is not None else found

    def prompt_of(self) -> tuple[str, str]:
        for field in ("prompt", "scene_description"):
            value = getattr(self, field, None)
            if isinstance(value, str):
                return field, value
        return "prompt", ""


class ImageSize(BaseModel):
    width: Annotated[int, Field(gt=0, le=14142)]
    height: Annotated[int, Field(gt=0, le=14142)]


class BirefnetInput(Input):
    image_url: str
    model: Literal[
        "General Use (Light)",
        "General Use (Light 2K)",
        "General Use (Heavy)",
        "Matting",
        "Portrait",
        "General Use (Dynamic)",
    ] = "General Use (Light)"
    operating_resolution: Literal["1024x1024", "2048x2048", "2304x2304"] = "1024x1024"
    output_format: Literal["png", "webp", "gif"] = "png"
    refine_foreground: bool = True
    output_mask: bool = False
    mask_only: bool = False

    @model_validator(mode="after")
    def _resolution_suits_model(self) -> Self:
        if self.operating_resolution == "2304x2304" and self.model != "General Use (Dynamic)":
            raise PydanticCustomError(
                "feature_not_supported", "2304x2304 is only supported by the Dynamic model"
            )
        return self


class ImageOnlyInput(Input):
    image_url: str


class RembgInput(Input):
    image_url: str
    crop_to_bbox: bool = False


class NanoBananaInput(Input):
    prompt: Annotated[str, Field(min_length=3, max_length=50_000)]
    image_urls: Urls
    aspect_ratio: Aspect = "auto"
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    output_format: ImageFormat = "png"
    safety_tolerance: Safety = "4"
    seed: int | None = None


class NanoBananaProInput(NanoBananaInput):
    resolution: Literal["1K", "2K", "4K"] = "1K"
    system_prompt: str | None = None
    enable_web_search: bool = False
    limit_generations: bool = False


class NanoBanana2Input(Input):
    prompt: Annotated[str, Field(min_length=3, max_length=50_000)]
    image_urls: Urls
    aspect_ratio: WideAspect = "auto"
    resolution: Literal["0.5K", "1K", "2K", "4K"] = "1K"
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    output_format: ImageFormat = "png"
    safety_tolerance: Safety = "4"
    seed: int | None = None
    system_prompt: str | None = None
    enable_web_search: bool = False
    limit_generations: bool = False
    thinking_level: Literal["minimal", "high"] | None = None


class SeedreamInput(Input):
    prompt: Annotated[str, Field(min_length=1, max_length=5000)]
    image_urls: Urls
    image_size: Preset | Literal["auto", "auto_2K", "auto_4K"] | ImageSize | None = None
    num_images: Annotated[int, Field(ge=1, le=6)] = 1
    max_images: Annotated[int, Field(ge=1, le=6)] = 1
    seed: int | None = None
    enable_safety_checker: bool = True
    enhance_prompt_mode: Literal["standard", "fast"] = "standard"

    @model_validator(mode="after")
    def _large_enough(self) -> Self:
        size = self.image_size
        if isinstance(size, ImageSize) and size.width * size.height < 921_600:
            raise PydanticCustomError(
                "image_too_small", "image_size must have at least 921,600 pixels"
            )
        return self


class KontextInput(Input):
    prompt: str
    image_url: str
    aspect_ratio: (
        Literal["21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21"] | None
    ) = None
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 3.5
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    output_format: Literal["jpeg", "png"] = "jpeg"
    safety_tolerance: Safety = "2"
    seed: int | None = None
    enhance_prompt: bool = False


class QwenEditInput(Input):
    prompt: str
    image_url: str
    image_size: Preset | ImageSize | None = None
    num_inference_steps: Annotated[int, Field(ge=2, le=50)] = 30
    guidance_scale: Annotated[float, Field(ge=0, le=20)] = 4
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    negative_prompt: str = " "
    seed: int | None = None
    acceleration: Literal["none", "regular", "high"] = "regular"
    output_format: Literal["jpeg", "png"] = "png"
    enable_safety_checker: bool = True


class ClarityInput(Input):
    image_url: str
    prompt: str = "masterpiece, best quality, highres"
    upscale_factor: Annotated[float, Field(ge=1, le=4)] = 2
    negative_prompt: str = "(worst quality, low quality, normal quality:2)"
    creativity: Annotated[float, Field(ge=0, le=1)] = 0.35
    resemblance: Annotated[float, Field(ge=0, le=1)] = 0.6
    guidance_scale: Annotated[float, Field(ge=0, le=20)] = 4
    num_inference_steps: Annotated[int, Field(ge=4, le=50)] = 18
    seed: int | None = None


class EsrganInput(Input):
    image_url: str
    scale: Annotated[float, Field(ge=1, le=8)] = 2
    model: Literal[
        "RealESRGAN_x4plus",
        "RealESRGAN_x2plus",
        "RealESRGAN_x4plus_anime_6B",
        "RealESRGAN_x4_v3",
        "RealESRGAN_x4_wdn_v3",
        "RealESRGAN_x4_anime_v3",
    ] = "RealESRGAN_x4plus"
    tile: int = 0
    face: bool = False
    output_format: Literal["png", "jpeg"] = "png"


class TopazInput(Input):
    image_url: str
    model: str = "Standard V2"
    upscale_factor: Annotated[float, Field(ge=1, le=4)] = 2
    subject_detection: Literal["All", "Foreground", "Background"] = "All"
    sharpen: Annotated[float, Field(ge=0, le=1)] | None = None
    denoise: Annotated[float, Field(ge=0, le=1)] | None = None
    fix_compression: Annotated[float, Field(ge=0, le=1)] | None = None
    face_enhancement: bool = True
    output_format: Literal["jpeg", "png"] = "jpeg"


class SeedvrInput(Input):
    image_url: str
    upscale_mode: Literal["factor", "target"] = "factor"
    upscale_factor: Annotated[float, Field(ge=1, le=10)] = 2
    target_resolution: Literal["720p", "1080p", "1440p", "2160p"] = "1080p"
    noise_scale: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: int | None = None
    output_format: Literal["jpg", "png", "webp"] = "jpg"


class ProductShotInput(Input):
    image_url: str
    scene_description: str | None = None
    ref_image_url: str | None = None
    optimize_description: bool = True
    num_results: Annotated[int, Field(ge=1, le=4)] = 1
    fast: bool = True
    placement_type: Literal["original", "automatic", "manual_placement", "manual_padding"] = (
        "manual_placement"
    )
    manual_placement_selection: Literal[
        "upper_left",
        "upper_right",
        "bottom_left",
        "bottom_right",
        "right_center",
        "left_center",
        "upper_center",
        "bottom_center",
        "center_vertical",
        "center_horizontal",
    ] = "bottom_center"
    shot_size: Annotated[list[int], Field(min_length=2, max_length=2)] = [1000, 1000]
    padding_values: Annotated[list[int], Field(min_length=4, max_length=4)] | None = None
    original_quality: bool = False

    @model_validator(mode="after")
    def _one_scene(self) -> Self:
        if bool(self.scene_description) == bool(self.ref_image_url):
            raise PydanticCustomError(
                "one_of",
                "Exactly one of scene_description and ref_image_url must be given",
                {"expected": ["scene_description", "ref_image_url"]},
            )
        return self


class BackgroundReplaceInput(Input):
    image_url: str
    prompt: str | None = None
    ref_image_url: str | None = None
    negative_prompt: str = ""
    refine_prompt: bool = True
    fast: bool = True
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    seed: int | None = None

    @model_validator(mode="after")
    def _not_both(self) -> Self:
        if self.prompt and self.ref_image_url:
            raise PydanticCustomError(
                "one_of",
                "prompt and ref_image_url exclude each other",
                {"expected": ["prompt", "ref_image_url"]},
            )
        return self


class WorkflowInput(Input):
    """A workflow's inputs are its author's; what is called like ours is understood."""

    image_url: str | None = None
    image_urls: list[str] = []
    prompt: str = ""
