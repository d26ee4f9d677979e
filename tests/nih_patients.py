"""How many pictures each patient of a real collection has: NIH ChestX-ray14, 112,120 pictures of 30,805 patients.

Counted from the file names in `Data_Entry_2017_v2020.csv`, as torchxrayvision 1.5.7 ships it. Its names are
`<patient>_<number>.png`, and each patient's are numbered from 000 without a gap, so these counts are the collection's
whole grouping but for which patient has which number. Nothing else of the table is here.

Terms: the NIH puts no restriction on the use of the collection, and asks for what follows. The data provider is the NIH
Clinical Center; the collection is at https://nihcc.app.box.com/v/ChestXray-NIHCC; it is described in X. Wang, Y. Peng,
L. Lu, Z. Lu, M. Bagheri, R. M. Summers, *ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on
Weakly-Supervised Classification and Localization of Common Thorax Diseases*, IEEE CVPR 2017, pp. 3462-3471.
"""

# fmt: off
PATIENTS = {
    1: 17503, 2: 4113, 3: 2100, 4: 1330, 5: 938, 6: 787, 7: 608, 8: 494, 9: 387, 10: 320, 11: 281, 12: 235, 13: 165,
    14: 181, 15: 121, 16: 120, 17: 91, 18: 77, 19: 77, 20: 74, 21: 68, 22: 39, 23: 50, 24: 51, 25: 45, 26: 35, 27: 38,
    28: 27, 29: 25, 30: 28, 31: 17, 32: 22, 33: 20, 34: 23, 35: 24, 36: 8, 37: 11, 38: 16, 39: 11, 40: 12, 41: 14,
    42: 11, 43: 6, 44: 8, 45: 6, 46: 10, 47: 5, 48: 7, 49: 9, 50: 6, 51: 11, 52: 7, 53: 5, 54: 7, 55: 10, 56: 7, 57: 2,
    58: 4, 59: 3, 60: 3, 61: 8, 62: 7, 63: 3, 64: 3, 65: 3, 66: 6, 67: 3, 68: 4, 69: 6, 70: 2, 71: 2, 73: 2, 74: 1,
    75: 1, 76: 2, 77: 2, 79: 1, 80: 2, 81: 3, 83: 1, 84: 2, 86: 3, 87: 1, 88: 1, 89: 1, 90: 2, 91: 1, 99: 1, 102: 1,
    108: 3, 109: 1, 111: 1, 114: 1, 116: 2, 117: 1, 119: 1, 130: 1, 137: 1, 143: 1, 157: 1, 158: 1, 173: 1, 184: 1,
}
"""Pictures of a patient → how many patients have as many."""
# fmt: on


def names() -> list[tuple[str, str]]:
    """Return `(patient, file name)` of every picture; patients are numbered from those with most pictures on."""
    sizes = [size for size in sorted(PATIENTS, reverse=True) for _ in range(PATIENTS[size])]
    return [
        (f"{patient:08d}", f"{patient:08d}_{number:03d}.png")
        for patient, size in enumerate(sizes, 1)
        for number in range(size)
    ]
