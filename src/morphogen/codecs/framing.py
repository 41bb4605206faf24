"""uint8 pixels (H, W, C) at another size and with other channels. No torch here."""
from __future__ import annotations

import math

import numpy as np
from PIL import Image


def channels_of(pixels: np.ndarray, channels: int) -> np.ndarray:
    """The same pixels with 1, 3 or 4 channels."""
    have = pixels.shape[2]
    if have == channels:
        return pixels
    colour = pixels[..., :3]
    if channels == 1:  # ITU-R 601 luma, as Pillow
        if np.array_equal(colour[..., :-1], colour[..., 1:]):
            return np.ascontiguousarray(colour[..., :1])
        return np.rint(colour @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)
    colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    alpha = np.full((*colour.shape[:2], 1), 255, np.uint8)
    return np.concatenate([colour, alpha], 2) if channels == 4 else np.ascontiguousarray(colour)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cropped at the centre to the proportions, then resized."""
    have_height, have_width = pixels.shape[:2]
    if (have_height, have_width) == (height, width):
        return pixels
    # Crop first: a strip of 1×65535 scaled to cover 64×64 would be four million pixels wide.
    scale = min(have_height / height, have_width / width)
    top, left = (have_height - height * scale) / 2, (have_width - width * scale) / 2
    first_row, first_column = int(top), int(left)  # cut before filtering, or the filter reaches over the crop's edge
    pixels = pixels[first_row : math.ceil(top + height * scale), first_column : math.ceil(left + width * scale)]
    top, left = top - first_row, left - first_column
    box = (left, top, min(left + width * scale, pixels.shape[1]), min(top + height * scale, pixels.shape[0]))
    resized = np.array(as_image(pixels).resize((width, height), Image.Resampling.LANCZOS, box=box), np.uint8)
    return resized.reshape(height, width, -1)


def as_image(pixels: np.ndarray) -> Image.Image:
    """The same pixels as Pillow holds them."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def snap(values: np.ndarray, levels: list[int]) -> np.ndarray:
    """[0, 1] -> the nearest of `levels` (all 256 when empty), uint8."""
    if not levels:
        return np.rint(values * 255).clip(0, 255).astype(np.uint8)
    steps = np.array(levels, np.float32)
    return np.array(levels, np.uint8)[np.searchsorted((steps[1:] + steps[:-1]) / 2, values * 255)]


def pooled(x: np.ndarray, most: int) -> np.ndarray:
    """Area means of (N, C, H, W) on a grid of at most `most` cells a side, exact for sizes that do not divide."""
    for axis in (2, 3):
        have = x.shape[axis]
        if have > most:
            edges = np.linspace(0, have, most + 1)
            cover = np.minimum(edges[1:, None], np.arange(1, have + 1)) - np.maximum(edges[:-1, None], np.arange(have))
            x = np.moveaxis(np.tensordot(x, cover.clip(0) * (most / have), (axis, 1)), -1, axis)
    return x
