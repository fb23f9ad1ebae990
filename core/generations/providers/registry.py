"""Every provider of images that a process can call, by its name; a new one is one more entry."""

from collections.abc import Mapping

import httpx

from core.generations.providers.base import ImageProvider
from core.generations.providers.fal.provider import FalProvider
from core.settings import Settings


def open_providers(settings: Settings, http: httpx.AsyncClient) -> Mapping[str, ImageProvider]:
    providers: tuple[ImageProvider, ...] = (FalProvider(settings, http),)
    return {provider.name: provider for provider in providers}
