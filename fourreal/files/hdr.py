"""High dynamic range video (PQ and HLG, ITU-R BT.2100) to the levels of ordinary video.

The display light of the signal is brought to reference white = 1 (BT.2408: 203 cd/m2), turned to
BT.709's primaries, compressed above a shoulder, and encoded for an ordinary screen.
"""

import numpy as np

PQ, HLG = 16, 18  # FFmpeg's numbers (AVColorTransferCharacteristic) of SMPTE 2084 and ARIB B67
TRANSFERS = (PQ, HLG)
WHITE = 203.0  # cd/m2 of diffuse white
PEAK = 1000.0  # cd/m2 of the brightest light that is told apart, and of the screen that HLG is for
SHOULDER = 0.75  # light up to here stays as it is
BT2020_PRIMARIES = 9
# Linear RGB of BT.2020 to BT.709 (ITU-R BT.2087)
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020


def pq_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2 of PQ's signal in [0, 1] (SMPTE ST 2084)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2 of HLG's signal [..., 3] in [0, 1] on a screen of PEAK (BT.2100, gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return PEAK * (scene @ LUMA)[..., None] ** 0.2 * scene


def compress(light: np.ndarray) -> np.ndarray:
    """Light (1 = white) to [0, 1]: unchanged up to SHOULDER, then bent so that PEAK becomes 1."""
    top, span = PEAK / WHITE - SHOULDER, 1 - SHOULDER
    over = np.clip(light - SHOULDER, 0, top)
    # x (1 + x / m^2) / (1 + x) of Reinhard et al. 2002 has slope 1 at 0 and is 1 at x = m.
    x, most = over / span, top / span
    return np.minimum(light, SHOULDER) + span * x * (1 + x / most**2) / (1 + x)


def tone_map(image: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """[H, W, 3] 16-bit RGB of PQ or HLG (`transfer`) to bytes of ordinary video, gamma 2.4's light.

    primaries: FFmpeg's number; what is not BT.2020 is taken as BT.709.
    """
    signal = image.astype(np.float32) / 65535
    light = (pq_light(signal) if transfer == PQ else hlg_light(signal)) / WHITE
    if primaries == BT2020_PRIMARIES:
        light = light @ TO_BT709.T
    light = np.maximum(light, 0)
    # The largest of the three decides, so that bright colours keep their hue.
    brightest = light.max(-1, keepdims=True)
    light *= compress(brightest) / np.maximum(brightest, 1e-6)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (srgb.clip(0, 1) * 255).round().astype(np.uint8)
