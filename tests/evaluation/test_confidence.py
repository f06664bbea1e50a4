import json

import numpy as np
import pytest
from scipy.special import expit

from irstd_ldm.evaluation.confidence import ScoredTarget, fit_platt, reliability
from irstd_ldm.targets import IsotonicCalibration, PlattCalibration, TemperatureCalibration, calibration_from_dict

KINDS = {
    "temperature": TemperatureCalibration(2.5),
    "platt": PlattCalibration(0.6, 0.3),
    "isotonic": IsotonicCalibration((0.1, 0.2, 0.3, 0.4), (0.0, 0.5, 0.5, 1.0)),
}


def miscalibrated(slope, intercept, number=20000):
    """Confidences whose logits z hit at the rate sigmoid(slope z + intercept)."""
    rng = np.random.default_rng(0)
    z = rng.normal(0.5, 2.0, number)
    return expit(z), rng.random(number) < expit(slope * z + intercept)


def ece(confidence, hit):
    targets = [ScoredTarget(one, bool(found)) for one, found in zip(confidence, hit, strict=True)]
    return reliability([targets], num_targets=len(hit), num_resamples=1).ece.value


def test_platt_is_recovered():
    confidence, hit = miscalibrated(0.5, -1.0)
    found = fit_platt(confidence, hit)
    assert (found.slope, found.intercept) == pytest.approx((0.5, -1.0), abs=0.05)
    # At the maximum of the likelihood the mean of the fit is that of the labels (softened: a part in 20000).
    assert found.apply(confidence).mean() == pytest.approx(hit.mean(), abs=1e-4)


def test_a_fit_mends_the_calibration_of_other_targets():
    confidence, hit = miscalibrated(0.4, 0.0)
    found = fit_platt(confidence[:10000], hit[:10000])
    assert ece(confidence[10000:], hit[10000:]) > 0.1
    assert ece(found.apply(confidence[10000:]), hit[10000:]) < 0.03


def test_kinds_by_hand():
    isotonic = KINDS["isotonic"]
    assert isotonic.apply(np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx([0, 0.5, 0.5, 1])
    assert isotonic.apply(0.25) == 0.5 and isotonic.apply(0.15) == pytest.approx(0.25)
    assert (isotonic.apply(0.0), isotonic.apply(1.0)) == (0.0, 1.0)
    assert KINDS["temperature"].apply(expit(5.0)) == pytest.approx(expit(2.0))


@pytest.mark.parametrize("hit", [True, False])
def test_one_kind_of_target_gives_a_finite_fit(hit):
    confidence = np.array([0.55, 0.7, 0.99, 1.0])
    calibrated = fit_platt(confidence, np.full(4, hit)).apply(confidence)
    assert np.isfinite(calibrated).all() and ((calibrated >= 0) & (calibrated <= 1)).all()
    assert (calibrated > 0.5).all() == hit


@pytest.mark.parametrize("confidence", [np.array([0.6, 0.7, 0.8, 0.9]), np.full(4, 0.7)])
def test_platt_never_turns_the_order(confidence):
    found = fit_platt(confidence, np.array([True, True, False, False]))
    assert found.slope == 0
    assert found.apply(confidence) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_and_read_again(kind):
    found = KINDS[kind]
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["kind"] == kind
    assert calibration_from_dict(stored) == found
    ends = np.array([[0.0, 0.5, 1.0]])
    applied = found.apply(ends)
    assert applied.shape == (1, 3) and np.isfinite(applied).all() and (np.diff(applied) >= 0).all()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"kind": "magic"}, "`kind` must be one of temperature, platt, isotonic, got 'magic'"),
        ({"kind": "platt", "slope": 1.0}, "must hold intercept, slope"),
        ({"kind": "platt", "slope": -1.0, "intercept": 0.0}, "`slope` must be at least 0"),
        ({"kind": "temperature", "temperature": 0.0}, "`temperature` must be positive"),
        ({"kind": "isotonic", "confidence": [], "calibrated": []}, "of one length, at least 1"),
        ({"kind": "isotonic", "confidence": [0.5, 0.4], "calibrated": [0.1, 0.2]}, "`confidence` must ascend"),
        ({"kind": "isotonic", "confidence": [0.4, 0.5], "calibrated": [0.1, 1.2]}, "`calibrated` must ascend"),
    ],
)
def test_refuses_what_was_not_stored_by_it(stored, message):
    with pytest.raises(ValueError, match=message):
        calibration_from_dict(stored)


@pytest.mark.parametrize(
    ("confidence", "hit", "message"),
    [
        ([], [], "`confidence` must have shape"),
        ([0.5, 1.5], [True, False], r"`confidence` must be in \[0, 1\]"),
        ([0.5, np.nan], [True, False], r"`confidence` must be in \[0, 1\]"),
        ([0.5, 0.6], [True], "`hit` must be bool of shape"),
        ([0.5, 0.6], [1, 0], "`hit` must be bool of shape"),
    ],
)
def test_refuses(confidence, hit, message):
    with pytest.raises(ValueError, match=message):
        fit_platt(np.array(confidence), np.array(hit))
