"""The label that says a picture was made with generative AI.

Stripping a provider's metadata also strips its own provenance marks, which sellers then miss
(Google Merchant asks for IPTC DigitalSourceType). So we write this one label ourselves.
"""

from typing import Final

from core.pixels.formats import jpeg, png, webp
from core.pixels.formats.base import Layout

# IPTC's term for a photo edited with generative AI.
EDITED_WITH_AI: Final = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)

_PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{term}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


def packet(term: str = EDITED_WITH_AI) -> bytes:
    return _PACKET.format(term=term).encode()


def strip_and_label(data: bytes, layout: Layout, xmp: bytes) -> bytes | None:
    """The same compressed pixels with this packet as the only metadata; None if not possible."""
    if isinstance(layout, jpeg.JpegLayout):
        stripped = jpeg.strip(data, layout)
        return None if stripped is None else jpeg.insert_xmp(stripped, xmp)
    if isinstance(layout, png.PngLayout):
        return png.insert_xmp(png.strip(data, layout), xmp)
    if isinstance(layout, webp.WebpLayout):
        return webp.rebuild(data, layout, xmp=xmp)
    return None
