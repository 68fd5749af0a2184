"""The published numbers that figures mark, as in `claims.yaml`, which a test holds against these.

All are of GPT-2 small at layer 6 (protocol sections 2.1 to 2.3); None is not published in a readable form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

PUBLISHED_MODEL = "gpt2-small"
# SAE -> KL of the reconstruction, of isotropic noise as long as the error, of the reconstruction's norm alone.
SUBSTITUTED: Mapping[str, Sequence[float | None]] = {
    "jup3glm9": (0.229593, 0.08, 0.007286),
    "h9hrelni": (0.189682, 0.0714, 0.005842),
    "1jy3m5j0": (0.154479, 0.0627, 0.004489),
    "4nlqrc2y": (0.122456, 0.0533, 0.003261),
    "2wvu1zs5": (0.079646, 0.0407, 0.002072),
    "uiwt81f1": (0.043873, 0.0256, 0.001024),
    "tvj2owza": (0.122186, 3.33, 0.666079),
    "1bubkmps": (0.075825, 2.98, 0.193319),
    "wzzcimkj": (0.048995, 2.27, 0.0652),
    "4d5ksz89": (0.02744, 1.06, 0.007901),
    "2lzle2f0": (0.135175, 0.456, 0.234241),
    "zidd0d3y": (0.103388, 0.347, 0.144638),
    "rb8q8czb": (0.082639, 0.26, 0.091691),
    "p9zmh62k": (0.060032, 0.164, 0.04796),
    "7nkdr21r": (0.048247, 0.114, 0.02838),
    "fqdgjxfe": (0.021773, 0.043, 0.005907),
    "bloom-6": (0.154157, 0.06107, 0.002826),
}
# SAE -> KL along its error at the lengths 11, 21, 51 and 201.
ERRORS: Mapping[str, Sequence[float | None]] = {
    "ahxwn90o": (0.039387, 0.24288, None, 8.677073),
    "43zmudf4": (0.041501, 0.224245, None, 8.178201),
    "unji5etq": (0.040932, 0.201841, 1.77, 7.689569),
    "jup3glm9": (0.039313, 0.184341, 1.601977, 7.286177),
    "h9hrelni": (0.038154, 0.174513, 1.51, 7.129909),
    "1jy3m5j0": (0.036914, 0.165285, 1.42, 6.820443),
    "4nlqrc2y": (0.034824, 0.151154, 1.29, 6.592052),
    "2wvu1zs5": (0.031103, 0.130833, 1.12, 6.145348),
    "uiwt81f1": (0.027696, 0.11362, 0.955, 5.501217),
    "4zcbb4au": (0.010976, 0.048816, None, 17.385255),
    "zgdpkafo": (0.006615, 0.027206, None, 13.502998),
    "tvj2owza": (0.005906, 0.023726, 0.2, 13.135611),
    "1bubkmps": (0.005586, 0.021795, 0.28, 12.624858),
    "wzzcimkj": (0.005902, 0.022515, 0.36, 11.805654),
    "4d5ksz89": (0.006877, 0.025817, 0.32, 8.146347),
    "55get0e5": (0.005823, 0.022949, None, 11.466759),
    "2lzle2f0": (0.005585, 0.021744, 0.24, 11.142784),
    "zidd0d3y": (0.005357, 0.020524, 0.26, 10.119778),
    "rb8q8czb": (0.005372, 0.020563, 0.31, 9.371116),
    "p9zmh62k": (0.005884, 0.02289, 0.39, 8.861817),
    "7nkdr21r": (0.00662, 0.02618, 0.445, 8.589327),
    "fqdgjxfe": (0.008194, 0.032934, 0.47, 7.893576),
}
# SAE -> KL along its features at length 51: alive but inactive, active, dead.
FEATURES: Mapping[str, Sequence[float | None]] = {
    "ahxwn90o": (1.299, None, 0.92),
    "43zmudf4": (1.167, 1.408, 0.862),
    "unji5etq": (1.059, 1.35, 0.782),
    "jup3glm9": (None, 1.3, 0.764),
    "h9hrelni": (1.019, 1.29, None),
    "1jy3m5j0": (0.999, 1.236, None),
    "4nlqrc2y": (0.983, 1.194, None),
    "2wvu1zs5": (0.937, 1.055, 0.738),
    "uiwt81f1": (0.648, 0.715, 0.664),
    "4zcbb4au": (None, 0.941, None),
    "zgdpkafo": (0.626, 1.128, 0.72),
    "tvj2owza": (0.598, 1.005, 0.706),
    "1bubkmps": (0.562, 0.801, 0.696),
    "wzzcimkj": (0.527, 0.659, 0.658),
    "4d5ksz89": (0.487, 0.485, 0.638),
    "55get0e5": (0.969, 1.658, 1.016),
    "2lzle2f0": (0.91, 1.64, 1.004),
    "zidd0d3y": (0.86, 1.44, None),
    "rb8q8czb": (0.784, 1.31, None),
    "p9zmh62k": (0.678, 1.085, 0.972),
    "7nkdr21r": (0.634, 0.941, 1.034),
    "fqdgjxfe": (0.507, 0.621, 0.932),
}
# SAE -> L0 on the study's rows, mean norm of the error.
SAES: Mapping[str, Sequence[float | None]] = {
    "jup3glm9": (40.660933, 22.49763),
    "h9hrelni": (None, 21.35441),
    "1jy3m5j0": (66.485167, 20.072467),
    "4nlqrc2y": (None, 18.611699),
    "2wvu1zs5": (None, 16.504589),
    "uiwt81f1": (None, 13.234724),
    "zgdpkafo": (31.094122, None),
    "tvj2owza": (44.115774, 74.836169),
    "1bubkmps": (None, 61.41582),
    "wzzcimkj": (None, 46.519907),
    "4d5ksz89": (None, 30.059132),
    "2lzle2f0": (38.411376, 49.030429),
    "zidd0d3y": (None, 43.970155),
    "rb8q8czb": (None, 39.060228),
    "p9zmh62k": (None, 32.357821),
    "7nkdr21r": (None, 27.635548),
    "fqdgjxfe": (None, 17.360643),
}
# What stands for itself: medians of Bloom's SAE, one position changed, and the range over layers (Gurnee 2024).
OTHERS: Mapping[str, float | Sequence[float]] = {
    "sub.bloom-6.sae.kl.median": 0.087331,
    "sub.bloom-6.iso.kl.median": 0.037584,
    "single.bloom-6.sae_over_iso": 2,
    "layers.early.sae_over_iso": (2.2, 4.5),
    "layers.main.sae_over_iso": (2.2, 4.5),
    "layers.late.sae_over_iso": (2.2, 4.5),
}
_COLUMNS = (
    (SUBSTITUTED, ("sub.{}.sae.kl", "sub.{}.iso.kl", "sub.{}.norm_only.kl")),
    (ERRORS, ("err.{}.k11", "err.{}.k21", "err.{}.k51", "err.{}.k201")),
    (FEATURES, ("feat.{}.inactive.k51", "feat.{}.active.k51", "feat.{}.dead.k51")),
    (SAES, ("sae.{}.l0", "sae.{}.error_norm")),
)


def _by_measure() -> Iterator[tuple[str, float]]:
    for table, names in _COLUMNS:
        for sae, row in table.items():
            yield from ((n.format(sae), v) for n, v in zip(names, row, strict=True) if v is not None)


# Measure -> value of the paper's model.
PAPER: Mapping[str, float | Sequence[float]] = {**dict(_by_measure()), **OTHERS}
