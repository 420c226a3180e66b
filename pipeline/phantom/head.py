"""The head: brain case and skull base, jaws with teeth and fillings, sinuses, face.

Frame of the head: origin at the middle of the foramen magnum, x right, y to the face, z up, mm; proportions are
those of a mean adult skull (length 180, breadth 140, basion to bregma 132 mm). It nods freely on C1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .body import Body
    from .canvas import Canvas, Region

# Height of the floor of the brain case along y, in the midline: occiput, foramen magnum, clivus, front.
_FLOOR_Y = [-90.0, -62, -45, -28, -17, 17, 30, 44, 60, 130]
_FLOOR_Z = [40.0, 2, -9, -8, -1, 1, 18, 36, 38, 44]
_ORIGIN_MM = (0.0, -2.0, 15.0)  # of the head in the frame of C1


class Head:
    """Where the head is, and its size against the mean."""

    def __init__(self, body: Body) -> None:
        rng, spine = body.rng, body.spine
        nod, turn, lean = np.deg2rad(rng.normal([6, 0, 0], [11, 6, 4]))
        self.size = float(spine.scales[:3].mean()) ** 0.5 * np.exp(rng.normal(0, 0.03))
        frame = spine.frames[0] * [1, 1, 1]
        self.origin = spine.centers_mm[0] + frame @ np.array(_ORIGIN_MM) * spine.scales[0]
        about_x = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
        about_y = np.array([[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]])
        about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        self.frame = frame @ about_z @ about_y @ about_x

    def place(self, points: tuple | list | np.ndarray) -> np.ndarray:
        """Return RAS+ mm of `(..., 3)` head coordinates."""
        return self.origin + self.size * np.asarray(points, dtype=float) @ self.frame.T


def paint_head(body: Body) -> None:
    """Paint the head on both canvases of a body."""
    head = Head(body)
    if body.bone.region(head.origin - 125, head.origin + 160) is None:
        return
    _paint_face(body, head)
    _paint_skull(body, head)
    _paint_base(body, head)
    _paint_air(body, head)
    _paint_jaws(body, head)


def _brain_case(canvas: Canvas, head: Head) -> tuple[Region, np.ndarray] | None:
    """Return a region and the signed distance to the inside of the brain case."""
    where = canvas.region(head.origin - 125, head.origin + 160)
    if where is None:
        return None
    x, y, z = (c / np.float32(head.size) for c in canvas.local(where, head.origin, head.frame))
    r = np.sqrt((x / 68) ** 2 + ((y - 23) / 87) ** 2 + ((z - 60) / 72) ** 2)
    floor = np.interp(y.ravel(), _FLOOR_Y, _FLOOR_Z).astype(np.float32).reshape(y.shape)
    floor += np.clip((np.abs(x) - 22) / 30, 0, 1) * np.where(y > 5, 4, 10)
    return where, np.maximum((r - 1) * 70, (floor - z) * 0.75) * np.float32(head.size)


def _paint_face(body: Body, head: Head) -> None:
    """Scalp, cheeks, tongue and the muscles under the skull: everything soft, on the tissue canvas."""
    rng, tissue = body.rng, body.tissue
    found = _brain_case(tissue, head)
    if found is None:
        return
    where, case = found
    x, y, z = (c / np.float32(head.size) for c in tissue.local(where, head.origin, head.frame))
    case = case - 12
    face = (np.sqrt((x / 63) ** 2 + ((y - 45) / 70) ** 2 + ((z + 22) / 66) ** 2) - 1) * 62
    jaw = (np.sqrt((x / 50) ** 2 + ((y - 60) / 46) ** 2 + ((z + 48) / 30) ** 2) - 1) * 34
    skin = np.minimum(np.minimum(case, face), jaw)
    here, neck = tissue.array[where], body.radius[where] < 1
    fat_mm = rng.uniform(3, 9)
    deep = skin < -fat_mm - 2
    soft = np.where(body.noise(9.0)[where] > rng.uniform(-0.3, 1.0), body.fat, body.muscle)
    here[(skin < 0) & ~neck] = body.fat
    here[(skin < 0) & (skin > -2) & ~neck] = 30.0
    here[deep & ~neck] = soft[deep & ~neck]
    here[deep & neck & (y > 18)] = soft[deep & neck & (y > 18)]
    tongue = tissue.ellipsoid(head.place((0, 58, -36)), (22, 30, 20), head.frame)
    tissue.fill(tongue, body.muscle + rng.uniform(-10, 10))
    for side in (-1, 1):
        chewing = head.place([(side * 54, 30, 4), (side * 52, 34, -44)])
        tissue.fill(tissue.tube(chewing, 8), body.muscle)
        tissue.fill(tissue.ellipsoid(head.place((side * 31, 84, 34)), (18, 20, 17)), body.fat)
        tissue.fill(tissue.ellipsoid(head.place((side * 31, 92, 34)), (12, 12, 12)), 10.0)


def _paint_skull(body: Body, head: Head) -> None:
    """Brain, and the shell of the brain case around it."""
    rng = body.rng
    for canvas in (body.tissue, body.bone):
        found = _brain_case(canvas, head)
        if found is None:
            continue
        where, case = found
        if canvas is body.tissue:
            brain = rng.uniform(25, 40)
            canvas.array[where] = np.where(case < 0, brain + 4 * body.texture[where], canvas.array[where])
            body.firm[where][(case > -6) & (case < 10)] = rng.uniform(250, 600)
        else:
            thick = rng.uniform(5, 8)
            shell = np.abs(case - thick / 2) - thick / 2
            np.minimum(canvas.array[where], shell, out=canvas.array[where])


def _paint_base(body: Body, head: Head) -> None:
    """Foramen magnum, condyles on C1, clivus, petrous bones and mastoids."""
    rng, bone = body.rng, body.bone
    bone.join(bone.tube(head.place([(0, 22, 0), (0, 34, 16), (0, 48, 30)]), np.array([5, 7, 9])))
    for side in (-1, 1):
        bone.join(bone.tube(head.place([(side * 18, 20, 4), (side * 40, 4, 12), (side * 60, -6, 10)]), 9.0))
        bone.join(bone.tube(head.place([(side * 54, -4, 8), (side * 53, -2, -12)]), np.array([13.0, 7])))
        styloid = head.place([(side * 40, 8, 0), (side * 34, 16, -28)])
        bone.join(bone.tube(styloid, np.array([2.6, 1.6])))
        pterygoid = head.place([(side * 14, 42, 14), (side * 15, 44, -18)])
        bone.join(bone.tube(pterygoid, 3.0))
        body.harden(head.place((side * 34, 8, 12)), (14, 10, 9), float(rng.uniform(300, 800)))
    hole = head.place([(0, -1, -22), (0, -1, 24)])
    bone.carve(bone.tube(hole, rng.uniform(14, 16.5)))
    tissue = body.tissue
    tissue.fill(tissue.tube(hole, 13.0), rng.uniform(5, 20))
    tissue.fill(tissue.tube(hole, 6.0), rng.uniform(25, 45))
    for side in (-1, 1):
        condyle = head.place((side * 20, 3, -4))
        bone.join(bone.ellipsoid(condyle, (7, 12, 6.5), head.frame))


def _paint_air(body: Body, head: Head) -> None:
    """Sinuses, nose and mastoid cells, each open or filled."""
    rng, bone, tissue = body.rng, body.bone, body.tissue
    caves = [((0, 54, 26), (15, 14, 11), 0.9), ((28, 76, 4), (14, 16, 18), 0.9), ((-28, 76, 4), (14, 16, 18), 0.9)]
    caves += [((0, 80, 24), (12, 22, 12), 0.9), ((0, 74, 0), (13, 30, 18), 1.0), ((0, 40, 0), (11, 9, 12), 1.0)]
    for center, radii, rate in caves:
        air = rng.random() < rate
        solid_mm = (head.place(center), np.array(radii) * np.exp(rng.normal(0, 0.12, 3)))
        bone.join(bone.ellipsoid(*solid_mm, head.frame), shell_mm=2.5)
        bone.carve(bone.ellipsoid(solid_mm[0], solid_mm[1] - 1.2, head.frame))
        tissue.fill(tissue.ellipsoid(*solid_mm, head.frame), -950.0 if air else 25.0)
    for side in (-1, 1):
        bone.join(bone.tube(head.place([(side * 6, 52, -6), (side * 7, 92, -2)]), 2.5))
        pneumatic = rng.random() < 0.8
        for _ in range(int(rng.integers(15, 45)) if pneumatic else 0):
            spot = head.place((side * rng.uniform(42, 63), rng.uniform(-14, 8), rng.uniform(-12, 18)))
            radius = rng.uniform(2.0, 5.0, 3)
            bone.carve(bone.ellipsoid(spot, radius))
            tissue.fill(tissue.ellipsoid(spot, radius + 1), -850.0)
        ear = head.place([(side * 36, 3, 12), (side * 78, -2, 10)])
        bone.carve(bone.tube(ear, 3.0))
        tissue.fill(tissue.tube(ear, 3.0), -950.0)
    bone.join(bone.tube(head.place([(0, 46, -4), (0, 98, 0)]), 1.4))


def _paint_jaws(body: Body, head: Head) -> None:
    """Palate, teeth, mandible, cheek bones; some teeth carry metal."""
    rng, bone, tissue = body.rng, body.bone, body.tissue
    gape = rng.uniform(0, 8)
    arch = np.deg2rad(np.linspace(-80, 80, 15))
    curve = np.stack([27 * np.sin(arch), 54 + 40 * np.cos(arch), np.zeros(15)], axis=1)
    toothless = rng.random() < 0.12
    for x in (-14, -5, 5, 14):
        bone.join(bone.tube(head.place([(x, 48, -15), (x, 88, -15)]), 2.6))
    bone.join(bone.tube(head.place(curve + [0, 0, -19]), 5.5))
    low = curve * [1.05, 1.0, 1] + [0, -3, -44 - gape]
    for drop in (0, -7, -14):
        bone.join(bone.tube(head.place(low + [0, 2, drop]), 5.0))
    for side in (-1, 1):
        back = low[-1] * [side, 1, 1]
        angle, joint = np.array([side * 46, 22, -48 - gape * 0.5]), np.array([side * 49, 16, 2])
        for shift in (-8, -4, 0, 4, 8):
            bone.join(bone.tube(head.place([joint + [0, shift, 0], angle + [0, shift, 0]]), 3.4))
        for drop in (2, -6, -13):
            bone.join(bone.tube(head.place([angle + [0, 4, drop + 6], back + [0, 2, drop]]), 4.6))
        bone.join(bone.tube(head.place([(side * 60, 20, 8), (side * 64, 42, 8), (side * 48, 76, 4)]), 3.0))
        bone.join(bone.tube(head.place([(side * 48, 76, 4), (side * 30, 92, 16)]), 4.0))
    body.harden(head.place((0, 62, -62 - gape)), (60, 60, 26), float(rng.uniform(300, 700)))
    if toothless:
        return
    metal = rng.random() < 0.5
    for row, up in ((curve + [0, 0, -27], 6.0), (low + [0, 0, 7], -6.0)):
        for tooth in row[rng.random(15) < 0.92]:
            ends = head.place([tooth, tooth + [0, 0, up]])
            bone.join(bone.tube(ends, 3.6))
            body.harden(ends.mean(axis=0), (4.5, 4.5, 7), float(rng.uniform(900, 1700)))
            if metal and abs(tooth[0]) > 14 and rng.random() < 0.3:
                body.fillings.append(ends[0])
    tissue.fill(tissue.ellipsoid(head.place((0, 66, -22)), (18, 24, rng.uniform(1, 6)), head.frame), -900.0)
