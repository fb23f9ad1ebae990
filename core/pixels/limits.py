"""The numbers that decide what is an acceptable picture, each with its reason."""

from typing import Final

# The product's limit for users (25 MB); a 50 MP phone JPEG is 12 to 20 MB.
BYTES_MAX: Final = 25_000_000

# What phone cameras deliver: "50 MP" is 8,192 x 6,144 (50.3), "64 MP" 9,248 x 6,936 (64.1). Decoded
# that is 260 MB in Pillow.
PIXELS_MAX: Final = 65_000_000

# Below this nothing of a piece can be recognised, and several providers refuse smaller inputs.
SIDE_MIN: Final = 64

# JPEG cannot exceed 65,535 a side; panoramas stay below 20,000.
SIDE_MAX: Final = 30_000

# Decoded bytes per byte of file, for JPEG, PNG and TIFF. Measured at 12 MP: an empty wall 190 as
# JPEG of quality 80, one piece on white 160 as JPEG and 50 as PNG, a single colour 510 and 1,030.
BOMB_RATIO: Final = 500

# WebP and HEIC keep flat areas in next to nothing: the same wall measured 1,530 and 2,460.
BOMB_RATIO_MODERN: Final = 5_000

# Smaller pictures cost little to decode, however well they were compressed.
BOMB_PIXELS_MIN: Final = 10_000_000

# A progressive JPEG has about 10 scans. Each one is a pass over the whole picture, so thousands of
# them are a way to burn CPU (libjpeg-turbo's djpeg has -maxscans for this).
SCANS_MAX: Final = 100

# Chunks, segments or boxes of one file. 25 MB of PNG in chunks of 8 kB are 3,000.
PARTS_MAX: Final = 100_000

THUMBNAIL_SIDE: Final = 512

OUTPUT_BYTES_MAX: Final = 100_000_000
# Defaults for a provider's result: a 25 MP photo enlarged twice each way.
OUTPUT_PIXELS_MAX: Final = 100_000_000
