"""The trunk and neck: skin, fat, muscle, lungs, heart and abdominal organs; arms and table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .body import Body

# Outline by level (C1 = 0 ... L5 = 23, 30 = hips): half width, and skin behind and in front of the body centers, mm.
_OUTLINE_LEVEL = [-6, 0, 2, 4, 6, 7.5, 9, 12, 16, 19, 21, 23, 26, 30]
_OUTLINE_MM = np.array(
    [[52, 56, 58, 60, 76, 150, 190, 175, 165, 160, 155, 165, 180, 185]]
    + [[52, 58, 62, 64, 68, 74, 80, 84, 86, 90, 92, 95, 100, 95]]
    + [[40, 44, 48, 50, 54, 70, 115, 165, 172, 150, 128, 120, 115, 100]]
)
# Chest wall by thoracic level T1-T12: half width, half depth, center in front of the body (mm).
CHEST_LEVEL = [7, 8, 9, 11, 13, 16, 18]
CHEST_MM = np.array([[58, 80, 95, 117, 129, 138, 138], [44, 58, 69, 84, 92, 93, 90], [18, 26, 34, 41, 42, 40, 38]])
CHEST_POWER = 2.6  # of the superellipse: 2 would be round


def paint_torso(body: Body) -> None:
    """Paint the outline, then what lies inside it, then what lies outside."""
    center_y, behind = _paint_outline(body)
    _paint_chest(body)
    _paint_abdomen(body)
    _paint_table(body, float((center_y - behind).min()), float((center_y + behind).max()))
    _paint_arms(body)


def flesh(body: Body) -> np.ndarray:
    """Return HU of muscle with sheets and islands of fat between, on the tissue canvas."""
    sheets = np.abs(body.noise(11.0)) < body.rng.uniform(0.03, 0.2)
    islands = body.noise(7.0) > body.rng.uniform(1.4, 3.0)
    return np.where(sheets | islands, body.fat, body.muscle + 6 * body.texture).astype(np.float32)


def _paint_outline(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """Paint skin, fat and muscle; return the spine's y and the distance of the skin behind it."""
    tissue = body.tissue
    center_x, center_y, half, behind, front, level = body.profile(_OUTLINE_LEVEL, _OUTLINE_MM)
    low = np.clip((level - 5) / 8, 0, 1)
    grow = body.girth + low * (body.fat_mm - 18) / 150
    half, front = half * grow, front * grow
    behind = behind * (0.9 + 0.1 * grow) + low * (body.fat_mm - 12) * 0.7
    x = np.abs(tissue.xyz[0] - center_x * np.clip(1 - level / 40, 0, 1)) / half
    y = tissue.xyz[1] - center_y
    middle, depth = (front - behind) / 2, (front + behind) / 2
    r = (x**2.3 + np.abs((y - middle) / depth) ** 2.3) ** (1 / 2.3)
    r[tissue.xyz[2] > body.near(0)[2] + 40] = 2.0  # the head goes on from here
    body.radius = r
    skin = 1 - 2.5 / half
    thick = body.fat_mm * np.clip((level - 3) / 5, 0.2, 1) + 3
    fat = 1 - thick / np.minimum(half, depth)
    values = np.where(r < fat, flesh(body), np.where(r < skin, body.fat + 12 * body.texture, 30.0))
    tissue.array[...] = np.where(r < 1, values, -1000.0)
    return center_y, behind


def _paint_table(body: Body, back: float, front: float) -> None:
    """Paint the table below the patient, or in front of one who lies prone, and what lies on it."""
    rng, tissue = body.rng, body.tissue
    if rng.random() < 0.25:
        return
    side = -1.0 if rng.random() < 0.95 else 1.0
    level = (back if side < 0 else front + 90) + side * rng.uniform(2, 12)
    bend = rng.choice([0.0, 0.0012, 0.0018])
    depth = side * (tissue.xyz[1] - (level - side * bend * tissue.xyz[0] ** 2))
    inside = (np.abs(tissue.xyz[0]) < rng.uniform(200, 260)) & (tissue.array < -900)
    thick = rng.uniform(25, 60)
    tissue.array[inside & (depth > 2) & (depth < thick)] = rng.uniform(-990, -930)
    for wall in (4.0, thick):
        tissue.array[inside & (np.abs(depth - wall) < tissue.spacing_mm * 0.7)] = rng.uniform(-300, 150)


def _paint_arms(body: Body) -> None:
    """Paint the upper arms beside the trunk, or raised beside the head."""
    rng, tissue = body.rng, body.tissue
    pose = rng.choice(["down", "up", "away"], p=[0.45, 0.25, 0.3])
    if pose == "away":
        return
    for side in (-1, 1):
        shoulder = body.near(8, side * 185 * body.girth, -5)
        if pose == "down":
            elbow = body.near(19, side * rng.uniform(215, 240) * body.girth, rng.uniform(-30, 60))
        else:
            elbow = body.near(0, side * rng.uniform(110, 150), rng.uniform(-10, 90), rng.uniform(20, 120))
        line = np.array([shoulder, elbow])
        for radius, value in ((46, body.fat), (46 - min(body.fat_mm, 14), body.muscle)):
            for where, distance in tissue.tube(line, radius):
                tissue.array[where][(distance < 0) & (tissue.array[where] < -150)] = value
        body.bone.join(body.bone.tube(line, 11))


def _paint_chest(body: Body) -> None:
    """Paint lungs, mediastinum and heart."""
    rng, tissue = body.rng, body.tissue
    center_x, center_y, half, depth, front, level = body.profile(CHEST_LEVEL, CHEST_MM * body.girth)
    x, y, z = tissue.xyz[0] - center_x, tissue.xyz[1] - center_y, tissue.xyz[2]
    cage = ((np.abs(x) / half) ** CHEST_POWER + (np.abs(y - front) / depth) ** CHEST_POWER) ** (1 / CHEST_POWER)
    apex = 7 + rng.normal(0.3, 0.45)  # at T1: in three necks 0.1 to 0.5 levels below its center, in a chest 0.7
    inside = (cage < 0.9) & (body.radius < 0.93) & (level > apex) & (level < 20)
    base = body.organ(18.7, 0, 0, rng.uniform(-30, 20))[2]  # of the recess behind, lowest when the breath is held
    dome = base + rng.uniform(35, 85) * (1 - ((np.abs(x) - 70) / 80) ** 2 - ((y - 50) / 95) ** 2)
    middle = rng.uniform(12, 20) + rng.uniform(16, 30) * np.exp(-(((y - rng.uniform(40, 60)) / 28) ** 2))
    width = np.where(y > 12, middle + 4 * body.noise(30.0), 25 + 0.4 * np.maximum(-y, 0))
    lung = inside & (z > dome) & (np.abs(x) > width)
    tissue.array[inside & (z > dome) & ~lung & (y > 12)] = body.fat * 0.6 + rng.uniform(0, 40)
    vessels = 0.5 * np.clip(np.maximum(body.noise(7.0) - 1.5, 0)[lung], 0, 1.4)
    haze = rng.choice([15.0, 40.0, 90.0], p=[0.4, 0.4, 0.2]) * body.noise(18.0)[lung]
    blood = body.blood()
    density = rng.uniform(-900, -740)
    tissue.array[lung] = density + haze + vessels * (900 + blood)
    if rng.random() < 0.1:  # fluid behind one lung
        effusion = lung & (x * rng.choice([-1, 1]) > 0) & (y < rng.uniform(-40, 0)) & (level > 10)
        tissue.array[effusion] = rng.uniform(0, 30)
    heart = body.organ(14.4, -22, 80, rng.normal(0, 15))
    size = np.array((55, 42, 56)) * np.exp(rng.normal(0.05, 0.1) + rng.normal(0, 0.1, 3))
    tissue.fill(tissue.ellipsoid(heart, size), body.muscle + 0.35 * (blood - 40))
    for right, ahead, up, radius in ((22, -8, 18, 26), (-22, -14, -2, 28), (24, 10, -8, 26), (-20, 6, -18, 24)):
        chamber = tissue.ellipsoid(heart + [right, ahead, up], np.full(3, radius) * np.exp(rng.normal(0.05, 0.2)))
        tissue.fill(chamber, blood * rng.uniform(0.5, 1.0))


def _paint_abdomen(body: Body) -> None:
    """Paint bowel, liver, spleen, stomach, kidneys, psoas and bladder; each organ may be missing."""
    rng, tissue = body.rng, body.tissue
    center_x, center_y, half, _, front, level = body.profile(_OUTLINE_LEVEL, _OUTLINE_MM * body.girth)
    x, y = tissue.xyz[0] - center_x, tissue.xyz[1] - center_y
    cavity = (x / (half * 0.72)) ** 2 + ((y - 55) / (front * 0.48)) ** 2 < 1
    cavity &= (level > 17) & (level < 27) & (body.radius < 0.85) & (tissue.array > -500)
    pattern, filling = body.noise(rng.uniform(18, 30)), body.noise(60.0)
    bowel = np.where(pattern > 0.3, rng.uniform(10, 50) + 10 * body.texture, body.fat)
    core = pattern > 0.75
    stool = rng.uniform(-250, 20) + rng.uniform(40, 160) * body.noise(6.0)
    bright = rng.uniform(150, 500) if rng.random() < 0.25 else 20.0
    content = np.where(filling > 0.7, -880.0, np.where(filling > 0.0, stool, np.where(filling > -0.8, 25.0, bright)))
    tissue.array[cavity] = np.where(core, content, bowel)[cavity]
    enhanced = 0.25 * body.contrast

    def put(center: np.ndarray, radii: tuple, value: float, rate: float = 0.85) -> None:
        if rng.random() < rate:
            tissue.fill(tissue.ellipsoid(center, np.array(radii) * np.exp(rng.normal(0, 0.12, 3))), value)

    def move(spread: float = 10.0) -> float:
        return float(rng.normal(0, spread))

    put(body.organ(18, 75, 55, move()), (82, 75, 68), rng.uniform(40, 70) + enhanced, 0.92)
    put(body.organ(17.5, -100, 5, move()), (32, 42, 48), rng.uniform(35, 60) + 1.3 * enhanced)
    stomach = body.organ(18, -60, 85, move())
    put(stomach, (50, 38, 45), rng.uniform(0, 60))
    put(stomach + [0, 14, 8], (36, 18, 26), -900.0, 0.7)
    for side in (-1, 1):
        kidney = body.organ(19.4 + 0.2 * side, side * rng.uniform(55, 70), -2, move())
        put(kidney, (27, 27, 52), rng.uniform(20, 45) + 1.6 * enhanced)
        put(kidney + [-8 * side, 4, 0], (10, 10, 22), body.fat if rng.random() < 0.8 else body.blood())
        psoas = [body.near(node, side * (26 + 4 * (node - 19)), 3) for node in (19, 20, 21, 22, 23, 25)]
        thick = np.array([6, 13, 17, 20, 22, 20]) * rng.uniform(0.8, 1.1)
        tissue.fill(tissue.tube(np.array(psoas), thick), body.muscle)
    put(body.near(27, 0, 75), (45, 40, 38), rng.uniform(0, 20) if rng.random() < 0.85 else rng.uniform(100, 600))
