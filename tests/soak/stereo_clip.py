"""A clip between two photographs of one scene, with the flow that was measured for it.

The scene is the motorcycle of the Middlebury stereo benchmark of 2014 (Scharstein et al., GCPR
2014; in the package scikit-image): two photographs, and for every pixel of the left one how far it
lies further to the left in the right one, measured with structured light. The frames in between are
those of cameras between the two; the first and the last are the photographs themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from skimage.data import stereo_motorcycle
from torch import Tensor

from evals.images import warp

Array = npt.NDArray[np.float64]
HIDDEN = -1e6
"""A position outside every frame: the point was behind another one frame before."""
SAME_SURFACE = 0.5
"""Two points are of one surface if their disparities differ by less, in pixels."""


@dataclass(frozen=True)
class View:
    """What a camera at `share` of the way from the left photograph to the right one sees.

    `disparity` and `brightness` in -1 to 1 are (h, w); a point at column c of the view is at
    c + share * disparity in the left photograph.
    """

    share: float
    disparity: Array
    brightness: Array


def views(number: int, *, factor: int) -> list[View]:
    """`number` views at equal distances, the photographs reduced `factor` times."""
    left, right, measured = stereo_motorcycle()
    left, right = (_reduced(_grey(image), factor).mean(-1) for image in (left, right))
    disparity = _filled(_median(_reduced(measured.astype(np.float64), factor)) / factor)
    return [_view(left, right, disparity, share) for share in np.linspace(0, 1, number)]


def _grey(image: npt.NDArray[np.uint8]) -> Array:
    result: Array = image.mean(2) / 127.5 - 1
    return result


def _reduced(image: Array, factor: int) -> Array:
    """The factor^2 pixels that become one, in the last axis."""
    h, w = (side // factor for side in image.shape)
    cells = image[: h * factor, : w * factor].reshape(h, factor, w, factor)
    return cells.transpose(0, 2, 1, 3).reshape(h, w, factor * factor)


def _median(cells: Array) -> Array:
    """The median of the finite values in the last axis; NaN where there are none."""
    masked = np.ma.masked_invalid(cells)
    result: Array = np.ma.median(masked, axis=-1).filled(np.nan)
    return result


def _filled(disparity: Array) -> Array:
    """Gaps of each row take the farther of their two neighbours: what is hidden is behind."""
    result = disparity.copy()
    for row in result:
        known = np.flatnonzero(np.isfinite(row))
        for column in np.flatnonzero(~np.isfinite(row)):
            after = int(np.searchsorted(known, column))
            row[column] = row[known[max(after - 1, 0) : after + 1]].min()
    return result


def _view(left: Array, right: Array, disparity: Array, share: float) -> View:
    height, width = left.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    nearest = np.full((height, width), -np.inf)
    moved = columns - share * disparity
    for shifted in (np.floor(moved).astype(int), np.ceil(moved).astype(int)):
        inside = (shifted >= 0) & (shifted < width)
        np.maximum.at(nearest, (rows[inside].astype(int), shifted[inside]), disparity[inside])
    seen = np.isfinite(nearest)
    of_view = _filled(np.where(seen, nearest, np.nan))
    from_left = _at(left, rows, columns + share * of_view)
    from_right = _at(right, rows, columns - (1 - share) * of_view)
    weight = np.where(seen, share, 1.0)  # only the right camera sees what the left one does not
    if share in (0, 1):
        weight = np.full_like(of_view, share)
    return View(share, of_view, (1 - weight) * from_left + weight * from_right)


def _at(image: Array, rows: Array, columns: Array) -> Array:
    result: Array = _values(image, torch.from_numpy(np.stack([rows, columns], -1))).numpy()
    return result


def _values(image: Array, positions: Tensor) -> Tensor:
    """Bilinear values of one image (h, w) at positions (..., 2)."""
    return warp.interpolate(torch.from_numpy(image)[None], positions)[0][0]


@dataclass(frozen=True)
class Window:
    """A square of every view that moves with a surface of disparity `follows`."""

    top: int
    left: float
    side: int
    follows: float

    def positions(self, view: View) -> Tensor:
        """Where the pixels of the window are in the view, (side, side, 2)."""
        corner = torch.tensor([self.top, self.left - view.share * self.follows])
        return warp.grid(self.side, self.side) + corner

    def frame(self, view: View) -> Tensor:
        """The brightness inside the window, (side, side)."""
        return _values(view.brightness, self.positions(view))

    def points(self, view: View) -> Tensor:
        """Where the points seen in the window are in the left photograph, (side, side, 2)."""
        positions = self.positions(view)
        return positions + _to_the_right(view.share * _values(view.disparity, positions))

    def flow(self, view: View, before: View) -> warp.Flow:
        """From positions in the window to those one frame before; hidden points are outside it."""

        def moved(positions: Tensor) -> Tensor:
            corner = self.positions(view)[0, 0]
            disparity = _values(view.disparity, positions + corner)
            travelled = (view.share - before.share) * (disparity - self.follows)
            earlier = positions + _to_the_right(travelled)
            there = _values(before.disparity, earlier + self.positions(before)[0, 0])
            visible = (there - disparity).abs() < SAME_SURFACE
            return torch.where(visible[..., None], earlier, torch.full_like(earlier, HIDDEN))

        return moved


def _to_the_right(columns: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(columns), columns], -1)
