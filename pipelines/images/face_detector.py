"""Faces in images, by a cascade of three small networks (MTCNN).

The first network looks at every place of the image in a pyramid of sizes, the second and the third
look again at what is left, each at a larger crop. (Zhang et al. 2016, "Joint Face Detection and
Alignment Using Multitask Cascaded Convolutional Networks", arXiv 1604.02878; weights as the package
facenet-pytorch ships them, which are fetched as assets)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipelines.assets.catalogue import Assets

NETWORKS = ("mtcnn-pnet.pt", "mtcnn-rnet.pt", "mtcnn-onet.pt")  # assets
CELL, STRIDE = 12, 2  # pixels that the first network sees of each place, and between two places
SMALLEST = 20  # pixels of the smallest face's side
STEP = 0.709  # of two sizes of the pyramid: half the area (section 3.1)
LEAST = (0.6, 0.7, 0.7)  # probability of a face that a stage passes on
MOST_OVERLAP = (0.5, 0.7, 0.7, 0.7)  # of two boxes: of one size, of all, after each further stage
MOST_CANDIDATES = 5_000  # of an image behind the first stage: a texture may have any number
SIZES = (24, 48)  # pixels of the crops that the second and third network see
CROPS = 512  # looked at in one batch

Floats = npt.NDArray[np.float32]


class Face(NamedTuple):
    """A face's box in shares of the image, and how sure the last network is of it."""

    left: float
    top: float
    right: float
    bottom: float
    probability: float


class _First(nn.Module):
    """A probability and a correction of the box for every place of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.max_pool2d(self.prelu1(self.conv1(image)), 2, ceil_mode=True)
        hidden = self.prelu3(self.conv3(self.prelu2(self.conv2(hidden))))
        return self.conv4_1(hidden).softmax(1)[:, 1], self.conv4_2(hidden)


class _Second(nn.Module):
    """The same for crops of 24 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.max_pool2d(self.prelu1(self.conv1(crops)), 3, 2, ceil_mode=True)
        hidden = functional.max_pool2d(self.prelu2(self.conv2(hidden)), 3, 2, ceil_mode=True)
        hidden = self.prelu4(self.dense4(_by_width(self.prelu3(self.conv3(hidden)))))
        return self.dense5_1(hidden).softmax(1)[:, 1], self.dense5_2(hidden)


class _Third(nn.Module):
    """The same for crops of 48 pixels. Its third answer, five points of a face, is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2 = nn.Linear(256, 2), nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        hidden = functional.max_pool2d(self.prelu1(self.conv1(crops)), 3, 2, ceil_mode=True)
        hidden = functional.max_pool2d(self.prelu2(self.conv2(hidden)), 3, 2, ceil_mode=True)
        hidden = functional.max_pool2d(self.prelu3(self.conv3(hidden)), 2, 2, ceil_mode=True)
        hidden = self.prelu5(self.dense5(_by_width(self.prelu4(self.conv4(hidden)))))
        return self.dense6_1(hidden).softmax(1)[:, 1], self.dense6_2(hidden)


def _by_width(hidden: Tensor) -> Tensor:
    """(n, width * height * channels), the order in which the weights were trained."""
    return hidden.permute(0, 3, 2, 1).reshape(len(hidden), -1)


class FaceDetector:
    """The three networks, ready to use. AssetError when their weights are missing.

    `device` is the GPU that this process may use, or its processor.
    """

    def __init__(self, assets: Assets, *, device: str | None = None) -> None:
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or default)
        networks = []
        for network, name in zip((_First(), _Second(), _Third()), NETWORKS, strict=True):
            state = torch.load(assets.path(name), map_location="cpu", weights_only=True)
            network.load_state_dict(state)
            networks.append(network.eval().to(self.device))
        self._first, *self._further = networks

    @torch.inference_mode()
    def faces(self, pixels: npt.NDArray[np.uint8]) -> list[Face]:
        """The faces of one image, shape (height, width, 3) RGB, the surest first."""
        height, width = pixels.shape[:2]
        image = torch.from_numpy(np.array(pixels)).to(self.device)
        image = (image.permute(2, 0, 1)[None].float() - 127.5) / 128
        boxes, scores = self._candidates(image)
        for number, network in enumerate(self._further, 1):
            if not len(boxes):
                return []
            crops = _crops(image, _squares(boxes), SIZES[number - 1])
            answers = [network(crops[n : n + CROPS]) for n in range(0, len(crops), CROPS)]
            scores = torch.cat([sure for sure, _ in answers]).cpu().numpy()
            shifts = torch.cat([shift for _, shift in answers]).cpu().numpy()
            passes = scores >= LEAST[number]
            boxes = _corrected(_squares(boxes)[passes], shifts[passes])
            scores = scores[passes]
            kept = _apart(boxes, scores, MOST_OVERLAP[number + 1], of_smaller=number == 2)
            boxes, scores = boxes[kept], scores[kept]
        order = np.argsort(-scores, kind="stable")
        limits = np.array([width, height, width, height], np.float32)
        shares = np.clip(boxes[order] / limits, 0, 1)
        return [
            Face(float(box[0]), float(box[1]), float(box[2]), float(box[3]), float(score))
            for box, score in zip(shares, scores[order], strict=True)
            if box[2] > box[0] and box[3] > box[1]
        ]

    def _candidates(self, image: Tensor) -> tuple[Floats, Floats]:
        """Boxes (n, 4) in pixels and their scores, of all sizes of the pyramid."""
        boxes, scores = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)]
        height, width = image.shape[2:]
        scale = CELL / SMALLEST
        while min(height, width) * scale >= CELL:
            size = (int(height * scale + 1), int(width * scale + 1))
            sure, shift = self._first(functional.interpolate(image, size, mode="area"))
            rows, columns = torch.nonzero(sure[0] >= LEAST[0], as_tuple=True)
            at = torch.stack((columns, rows, columns, rows), 1).cpu().numpy() * STRIDE
            windows = (at + np.array([1, 1, CELL, CELL])) / scale
            score = sure[0, rows, columns].cpu().numpy()
            corrected = _corrected(
                np.floor(windows).astype(np.float32), shift[0, :, rows, columns].T.cpu().numpy()
            )
            kept = _apart(corrected, score, MOST_OVERLAP[0])
            boxes.append(corrected[kept])
            scores.append(score[kept])
            scale *= STEP
        every, sure_of = np.concatenate(boxes), np.concatenate(scores)
        kept = _apart(every, sure_of, MOST_OVERLAP[1])[:MOST_CANDIDATES]
        return every[kept], sure_of[kept]


def _corrected(boxes: Floats, shifts: Floats) -> Floats:
    """Boxes moved by shares of their width and height."""
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.asarray(boxes + shifts * sizes, np.float32)


def _squares(boxes: Floats) -> Floats:
    """The squares around the centres of boxes, as large as their longer sides."""
    side = (boxes[:, 2:] - boxes[:, :2]).max(1, keepdims=True)
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    return np.concatenate([centre - side / 2, centre + side / 2], 1)


def _crops(image: Tensor, squares: Floats, size: int) -> Tensor:
    """Parts of an image, (n, 3, size, size); what lies outside of it is grey."""
    height, width = image.shape[2:]
    crops = torch.zeros((len(squares), 3, size, size), device=image.device)
    for number, (left, top, right, bottom) in enumerate(np.round(squares).astype(int).tolist()):
        x, y = max(left, 0), max(top, 0)
        part = image[:, :, y : max(bottom, 0), x : max(right, 0)]
        if not part.numel():
            continue
        beside = (x - left, max(right - width, 0), y - top, max(bottom - height, 0))
        crops[number] = functional.interpolate(functional.pad(part, beside), size, mode="area")[0]
    return crops


def _apart(boxes: Floats, scores: Floats, most: float, *, of_smaller: bool = False) -> Any:
    """The places of boxes of which no surer one covers more than `most`, the surest first.

    The part that two boxes share is measured against both together, or against the smaller one.
    """
    order = np.argsort(-scores, kind="stable")
    areas = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        both = areas[best] + areas[order] - shared
        against = np.minimum(areas[best], areas[order]) if of_smaller else both
        order = order[shared <= most * np.maximum(against, 1e-9)]
    return np.array(kept, dtype=np.int64)
