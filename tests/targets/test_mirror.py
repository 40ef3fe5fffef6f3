"""Left and right are found in every common spelling, and pairs may be given as YOLO gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resflow.targets.mirror import as_pairs, mirrored_pairs

SPELLINGS = [
    "left_eye right_eye",
    "L_Eye R_Eye",
    "l_eye r_eye",
    "LEFT_EYE RIGHT_EYE",
    "LeftEye RightEye",
    "leftEye rightEye",
    "lefteye righteye",
    "left-eye right-eye",
    "eye_left eye_right",
    "eye.L eye.R",
    "eye_l eye_r",
    "eyeL eyeR",
    "Leye Reye",
    "LEye REye",
    "lAnkle rAnkle",
    "wrist_left wrist_right",
    "LASI RASI",
    "front_left_paw front_right_paw",
    "L_F_Paw R_F_Paw",
    "LFPaw RFPaw",
    "mixamorig:LeftArm mixamorig:RightArm",
    "DEF-thigh.L.001 DEF-thigh.R.001",
    "forelegL1 forelegR1",
    "Nearfrontfoot Offfrontfoot",
    "左眼 右眼",
    "l r",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_both_sides_of_a_name_are_a_pair(spelling: str) -> None:
    left, right = spelling.split()
    assert mirrored_pairs(["nose", left, "tail", right, "neck"]) == ((1, 3),)
    assert mirrored_pairs([right, left]) == ((0, 1),)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("nose", "left_eye", "right_eye", "left_only", "right_ear", "left_ear"), ((1, 2), (4, 5))),
        (("Left Ear", "Right Ear", "eye (left)", "eye (right)"), ((0, 1), (2, 3))),
        (("FL", "FR", "RL", "RR"), ((0, 1), (2, 3))),
        (("LF", "RF", "LR", "RR"), ((0, 1), (2, 3))),
        (("LElbow", "LEye", "LEar", "REar", "REye", "RElbow"), ((0, 5), (1, 4), (2, 3))),
        (("left_lower_lip", "right_lower_lip", "upper_lip", "lower_lip"), ((0, 1),)),
        (("lip", "leg", "nose", "thumb1", "thumb2"), ()),
        (("a", "a", "left", "left", "right"), ()),
    ],
)
def test_pairs_of_a_skeleton(names: tuple[str, ...], pairs: Any) -> None:
    assert mirrored_pairs(names) == pairs


@pytest.mark.parametrize(
    "given",
    [
        ((1, 2), (3, 4)),
        [[2, 1], [4, 3]],
        ((1, 2), (2, 1), (3, 4), (4, 3), (0, 0)),
        [0, 2, 1, 4, 3],
        np.array([0, 2, 1, 4, 3]),
        list(enumerate([0, 2, 1, 4, 3])),
        ((1.0, 2.0), (3.0, 4.0)),
    ],
)
def test_pairs_and_permutations_mean_the_same(given: Any) -> None:
    assert as_pairs(given, 5) == as_pairs(given) == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("12", "got '1'"),
        (5, "got 5"),
        ([[1]], r"got \(1,\)"),
        (((1, 9),), "place 9; expected places from 0 to 4, of 5"),
        (((-1, 1),), "place -1"),
        (((1, 2), (1, 0)), "place 1 is paired with 2 and with 0"),
        ([0, 2, 1], "permutation of 3 places; expected one of all 5"),
        ([1, 2, 0, 3, 4], "place 1 is paired with 0 and with 2"),
        ([0, 1, 1, 3, 4], "no permutation"),
        (((0.5, 1),), "got"),
    ],
)
def test_what_are_no_pairs_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_pairs(given, 5)
