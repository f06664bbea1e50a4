"""The tracker on simulated targets: crossing, missed, among clutter; and the filter by hand."""

from time import perf_counter

import numpy as np
import pytest

from irstd_ldm.tracking import ConstantVelocityFilter, Tracker, TrackerParameters

HIT_PX = 3.0  # a track follows a target that is nearer than this


def simulate(paths, rng, detection_probability=0.9, clutter=1.0, noise_px=0.4, side=256, num_frames=60):
    """Detections (M, 2) of each frame; `paths` are (x, y, speed of x, speed of y) at frame 0."""
    for time in range(num_frames):
        truth = np.array([(x + u * time, y + v * time) for x, y, u, v in paths]).reshape(-1, 2)
        seen = truth[rng.random(len(truth)) < detection_probability]
        false = rng.uniform(0, side, (rng.poisson(clutter), 2))
        positions = np.concatenate([seen + noise_px * rng.standard_normal(seen.shape), false])
        yield truth, rng.permutation(positions)


def follow(paths, seed, **sensor):
    """Per target the ids that followed it, frame by frame (None = none), and all confirmed tracks' ids.

    A target keeps the id it had while that track is within `HIT_PX`, as in CLEAR MOT (Bernardin, Stiefelhagen 2008).
    """
    tracker, rng = Tracker(), np.random.default_rng(seed)
    followers: list[list[int | None]] = [[] for _ in paths]
    ids = set()
    for truth, positions in simulate(paths, rng, **sensor):
        tracks = tracker.update(positions)
        ids |= {track.id for track in tracks}
        for target, position in enumerate(truth):
            distance = {track.id: np.hypot(track.x - position[0], track.y - position[1]) for track in tracks}
            last = next((one for one in reversed(followers[target]) if one is not None), None)
            nearest = last if distance.get(last, HIT_PX) < HIT_PX else min(distance, key=distance.get, default=None)
            followers[target].append(nearest if distance.get(nearest, HIT_PX) < HIT_PX else None)
    return followers, ids


def switches(followers: list[int | None]) -> int:
    ids = [one for one in followers if one is not None]
    return sum(a != b for a, b in zip(ids, ids[1:], strict=False))


CROSSING = ((40, 40, 3, 3), (220, 40, -3, 3), (40, 130, 3, 0))  # the three meet at (130, 130)


def test_crossing_targets_keep_their_identities():
    """Twenty runs of three targets that meet in one point, a tenth of the detections missed, one false one a frame."""
    total, followed = 0, []
    for seed in range(20):
        followers, _ = follow(CROSSING, seed)
        total += sum(switches(of_target) for of_target in followers)
        followed += [np.mean([one is not None for one in of_target[5:]]) for of_target in followers]
    assert total == 0
    assert np.mean(followed) > 0.97


def test_clutter_alone_makes_few_tracks():
    ids = [follow((), seed, clutter=3.0)[1] for seed in range(5)]
    assert sum(map(len, ids)) <= 5  # 900 false detections


def test_without_noise_misses_or_clutter_a_track_is_the_target():
    followers, ids = follow(((20, 30, 2, 1),), 0, detection_probability=1, clutter=0, noise_px=0)
    assert followers == [[None, None] + [1] * 58]
    assert ids == {1}


def test_birth_by_m_of_n():
    """Three hits of five: seen in frames 0, 2 and 4 it is confirmed in frame 4; seen in 0 and 4 never."""
    here, nothing = np.array([[50.0, 60.0]]), np.empty((0, 2))
    for seen, confirmed in (((0, 2, 4), [4]), ((0, 4), []), ((0, 1, 2), [2, 3, 4])):
        tracker = Tracker(TrackerParameters(max_misses=9))
        tracks = [tracker.update(here if frame in seen else nothing) for frame in range(5)]
        assert [frame for frame, found in enumerate(tracks) if found] == confirmed


def test_death_after_misses_and_no_id_twice():
    here, nothing = np.array([[50.0, 60.0]]), np.empty((0, 2))
    tracker = Tracker(TrackerParameters(max_misses=2))
    frames = [here] * 4 + [nothing] * 5 + [here] * 4
    tracks = [tracker.update(positions) for positions in frames]
    assert [[track.id for track in found] for found in tracks] == [[]] * 2 + [[1]] * 4 + [[]] * 5 + [[2]] * 2
    assert [found[0].target for found in tracks[2:6]] == [0, 0, None, None]
    last = tracks[5][0]
    assert (last.num_hits, last.num_frames) == (4, 6)


def test_a_detection_belongs_to_one_track():
    tracker = Tracker()
    apart = np.array([[50.0, 50.0], [56.0, 50.0]])
    for _ in range(5):
        tracks = tracker.update(apart)
    assert [track.target for track in tracks] == [0, 1]
    tracks = tracker.update(np.array([[52.9, 50.0]]))
    assert sorted(track.target is None for track in tracks) == [False, True]


def test_the_gate_is_one_of_mahalanobis():
    """A new track: variance 0.7^2 + 3^2 + 0.5^2 / 4 + 0.7^2 per axis; the gate 9.21 of it is 9.62 px."""
    filter = ConstantVelocityFilter(np.zeros((1, 2)), TrackerParameters())
    filter.predict()
    variance = 0.49 + 9 + 0.25 / 4 + 0.49
    row, column, cost = filter.near(np.array([0]), np.array([[90.0, 0.0], [3.0, 4.0]]), 9.21)
    assert (row, column) == ([0], [1]) and cost == pytest.approx(25 / variance + np.log(variance**2))
    radius = np.sqrt(9.21 * variance)
    for distance, confirmed in ((radius - 0.01, 1), (radius + 0.01, 0)):
        tracker = Tracker(TrackerParameters(birth_hits=2, birth_frames=2))
        tracker.update(np.array([[0.0, 0.0]]))
        assert len(tracker.update(np.array([[distance, 0.0]]))) == confirmed


def test_one_update_by_hand():
    """One axis: prior variance 0.49 + 9 + 0.0625, noise 0.49; the gain is their ratio."""
    filter = ConstantVelocityFilter(np.zeros((1, 2)), TrackerParameters())
    filter.predict()
    filter.update(np.array([0]), np.array([[1.0, 0.0]]))
    prior = 0.49 + 9 + 0.0625
    gain = prior / (prior + 0.49)
    assert filter.state[0, 0] == pytest.approx(gain)
    assert filter.state[0, 2] == pytest.approx((9 + 0.125) / (prior + 0.49))
    assert filter.covariance[0, 0, 0] == pytest.approx((1 - gain) * prior)
    np.testing.assert_allclose(filter.covariance[0], filter.covariance[0].T)


@pytest.mark.parametrize("positions", (np.zeros(2), np.zeros((3, 3)), np.array([[0.0, np.nan]])))
def test_positions_are_checked(positions):
    with pytest.raises(ValueError, match="`positions`"):
        Tracker().update(positions)


@pytest.mark.parametrize(
    ("name", "value"),
    (("gate", 0), ("gate", np.inf), ("birth_hits", 0), ("birth_hits", 6), ("max_misses", -1), ("max_misses", 1.5)),
)
def test_parameters_are_checked(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        TrackerParameters(**{name: value})


def test_dropped_frames_split_no_track_and_a_long_gap_ends_all():
    """At 5 px a frame; numbers tell of frames that were not looked at, time stamps of those the camera dropped."""
    for numbers, stamps in (
        ((*range(8), 13, 14), False),
        ((*range(8), 13, 14), True),
        ((*range(8), 40, 41, 42), False),
    ):
        tracker = Tracker()
        for place, number in enumerate(numbers):
            here = np.array([[20.0 + 5 * number, 60.0]])
            tracks = tracker.update(here, place, number / 25) if stamps else tracker.update(here, number)
        assert [track.id for track in tracks] == ([1] if numbers[-1] < 20 else [2])


def test_thousands_of_tracks_take_seconds():
    rng, tracker = np.random.default_rng(0), Tracker()
    start, speed = rng.uniform(0, 1, (4000, 2)) * (640, 512), rng.normal(0, 1, (4000, 2))
    begin = perf_counter()
    for number in range(4):
        tracks = tracker.update(start + speed * number + rng.normal(0, 0.4, start.shape))
    assert len(tracks) > 3900 and perf_counter() - begin < 30
