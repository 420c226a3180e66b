"""Air and blood: airway, great vessels with contrast and calcification, esophagus, thyroid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .body import Body


DRIFT_SHARE = 0.8  # of the organs' drift along the spine: airway and great vessels are held from above


def paint_vessels(body: Body) -> None:
    """Paint the tubes of neck and trunk."""
    _paint_airway(body)
    _paint_neck(body)
    _paint_great(body)
    _paint_trunk(body)


def _paint_airway(body: Body) -> None:
    """Pharynx close before the upper bodies, then larynx and trachea with the esophagus between."""
    rng, tissue = body.rng, body.tissue
    shift = rng.normal(0, 2)
    nodes = [(-0.3, 30, 13), (0, 27, 0), (1, 23, 0), (2, 22, 0), (3, 24, 0), (4, 30, 0), (5, 33, 0), (6, 35, 0)]
    nodes += [(7, 36, 0), (9, 42, 0), (10.7, 46, 0)]
    points = np.array([body.near(level, rng.normal(0, 1.5), front + shift, up) for level, front, up in nodes])
    fork = body.near(11.7)[2] - points[-1, 2]
    points[-1, 2] += DRIFT_SHARE * body.drift_mm[0] + rng.normal(0, 8)
    radius = np.array([7, 6, 6, 7, 7, 6, 6, 7, 8, 8, 8]) * rng.uniform(0.5, 1.25)
    tissue.fill(tissue.tube(points[:5] + [6, 0, 0], radius[:5]), -980.0)
    tissue.fill(tissue.tube(points[:5] - [6, 0, 0], radius[:5]), -980.0)
    tissue.fill(tissue.tube(points[4:], radius[4:] + 1), -980.0)
    for side in (-1, 1):
        bronchus = points[-1] + [side * 45, -4, fork]
        tissue.fill(tissue.tube(np.array([points[-1], bronchus]), 6), -960.0)
    gullet = [body.near(level, -6 + rng.normal(0, 2), front) for level, front in ((5, 18), (9, 24), (14, 30), (17, 42))]
    tissue.fill(tissue.tube(np.array(gullet), 6), body.muscle)
    if rng.random() < 0.3:
        tissue.fill(tissue.tube(np.array(gullet), 2.5), rng.choice([-900.0, 20.0, 300.0]))
    _paint_larynx(body, points[4:7], float(radius[5]))


def _paint_larynx(body: Body, airway: np.ndarray, radius: float) -> None:
    """Hyoid, thyroid and cricoid cartilage around the airway, ossified to some degree."""
    rng, bone = body.rng, body.bone
    hyoid = body.near(2.6, 0, 48)
    horns = hyoid + np.array([[-22, -24, 2], [-14, -8, 0], [0, 0, -2], [14, -8, 0], [22, -24, 2]])
    bone.join(bone.tube(horns, np.array([2.2, 2.6, 3.6, 2.6, 2.2])))
    if rng.random() < 0.6:
        for side in (-1, 1):
            plate = airway[1] + np.array([[side * 1, radius + 12, 6], [side * 19, -10, 8], [side * 18, -12, -12]])
            bone.join(bone.tube(plate, 1.6))
    ring = [airway[2] + [(radius + 4) * np.cos(a), (radius + 5) * np.sin(a), 0] for a in np.linspace(0, 6.28, 11)]
    if rng.random() < 0.6:
        bone.join(bone.tube(np.array(ring), 2.2))


def _paint_neck(body: Body) -> None:
    """Carotid, jugular and vertebral vessels, thyroid, sternocleidomastoid."""
    rng, tissue = body.rng, body.tissue
    for side in (-1, 1):
        nodes = ((-0.5, 26, 16), (4, 26, 22), (8, 20, 42))
        vessel = np.array([body.near(level, side * right, front) for level, right, front in nodes])
        tissue.fill(tissue.tube(vessel, 4), body.blood())
        tissue.fill(tissue.tube(vessel + [side * 10, -2, 0], rng.uniform(4, 7)), body.blood() * rng.uniform(0.5, 1))
        mastoid = [body.near(-0.4, side * 54, -6), body.near(4, side * 46, 22), body.near(8, side * 16, 56)]
        tissue.fill(tissue.tube(np.array(mastoid), 9), body.muscle)
        tissue.fill(
            tissue.ellipsoid(body.near(6.2, side * 16, 40), (8, 8, 20)), rng.uniform(80, 150) + 0.2 * body.contrast
        )
        tissue.fill(tissue.ellipsoid(body.near(1.5, side * 44, 36), (11, 15, 17)), rng.uniform(-20, 50))  # gland
        if rng.random() < 0.3:
            spot = tissue.ellipsoid(body.near(3.2, side * 26, 22, rng.uniform(-8, 8)), (3, 3, 5))
            tissue.fill(spot, rng.uniform(300, 900))


def _paint_great(body: Body) -> None:
    """Pulmonary trunk, arteries and veins, left atrium, superior cava and the arch's branches; levels of one torso."""
    rng, tissue = body.rng, body.tissue
    lift = DRIFT_SHARE * body.drift_mm[0] + rng.normal(0, 10)
    right, left = body.blood(), body.blood()  # contrast rarely fills both sides alike
    size = np.exp(rng.normal(0, 0.2))

    def join(nodes: list[tuple[float, float, float]], radius: float, value: float) -> None:
        line = np.array([body.near(level, side, front * body.girth, lift) for level, side, front in nodes])
        tissue.fill(tissue.tube(line, radius * size), value)

    def share() -> float:
        return float(rng.uniform(0.4, 1.0))

    join([(13.0, -14, 92), (11.9, -18, 68)], 13, right * share())
    join([(11.9, -18, 68), (11.8, 12, 46), (12.1, 48, 40)], 10, right * share())
    join([(11.9, -18, 68), (11.6, -34, 46), (12.2, -52, 30)], 10, right * share())
    join([(9.6, 34, 62), (11.6, 34, 62), (13.4, 32, 62)], 8, right * share())
    join([(9.6, 34, 62), (9.4, 8, 70), (8.6, -34, 58)], 6, right * share())
    atrium = body.near(13.4, rng.normal(0, 4), 44, lift)
    tissue.fill(tissue.ellipsoid(atrium, np.array((34, 20, 25)) * np.exp(rng.normal(0, 0.2))), left * share())
    for side in (-1, 1):
        join([(13.3, side * 20, 44), (13.2, side * 55, 28)], 7, left * share())
        join([(12.7, side * 20, 48), (12.2, side * 52, 52)], 6, left * share())
        join([(10.2, side * 12 + 4, 58), (8.6, side * 20, 46), (7.6, side * 45, 36)], 5, left)


def _paint_trunk(body: Body) -> None:
    """Aorta, cava and iliac vessels; calcified where old."""
    rng, tissue = body.rng, body.tissue
    sway = rng.normal(0, 4)
    nodes = [
        (13.3, 0, 88),
        (11.7, 14, 86),
        (10.3, 5, 62),
        (10.3, -22, 28),
        (12.3, -24, 24),
        (15, -20 + sway, 26),
        (18, -8 + sway, 32),
        (22.1 + rng.normal(0, 0.5), -4 + sway, 34),
    ]
    points = np.array([body.near(*node) for node in nodes])
    points[:4, 2] += 4 + DRIFT_SHARE * body.drift_mm[0] + rng.normal(0, 12)
    radius = rng.uniform(9, 17) * np.array([1.1, 1.2, 1.2, 1.1, 1.0, 1.0, 0.9, 0.75])
    if rng.random() < 0.15:  # an aneurysm
        radius[int(rng.integers(8))] *= rng.uniform(1.3, 2.2)
    blood = body.blood()
    tissue.fill(tissue.tube(points, radius), blood)
    nodes = [(14, 22 + sway, 45), (18, 22 + sway, 34), (21, 22 + sway, 32), (23, 22 + sway, 30)]
    tissue.fill(tissue.tube(np.array([body.near(*node) for node in nodes]), rng.uniform(8, 12)), blood * 0.7)
    for side in (-1, 1):
        iliac = np.array([points[-1], body.near(25, side * 38, 30)])
        tissue.fill(tissue.tube(iliac, 6), blood)
        tissue.fill(tissue.tube(iliac + [4, -12, 0], 7), blood * rng.uniform(0.5, 1))
    if rng.random() < 0.45:
        for _ in range(int(rng.integers(3, 30))):
            t, angle = rng.uniform(1.5, 7), rng.uniform(0, 2 * np.pi)
            wall = np.array([np.interp(t, range(8), points[:, i]) for i in range(3)])
            spot = wall + np.interp(t, range(8), radius) * np.array([np.cos(angle), np.sin(angle), 0])
            tissue.fill(tissue.ellipsoid(spot, (3.0, 3.0, rng.uniform(3, 9))), rng.uniform(250, 1000))
