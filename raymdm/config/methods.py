"""The named training methods: what each one changes, as data."""

from typing import Literal, NamedTuple


class MethodSpec(NamedTuple):
    """A method as its parts; `family` "arm" is next-token training and ignores the others."""

    family: Literal["mdm", "arm"] = "mdm"
    density: Literal["uniform", "calibrated"] = "uniform"
    """The density p(t) that draws masking rates; a calibrated one weighs the loss by 1/p(t) (paper, eq. 3)."""
    strata: Literal["none", "sqrt", "batch"] = "none"
    """Strata of the rate over the global batch B: none, int(sqrt(B)) (StraTS, 3.2.3) or B (MDLM)."""
    mask: Literal["bernoulli", "fixed_size"] = "bernoulli"
    """Each token masked with probability t, or exactly ceil(t n) tokens of n."""
    mirrored: bool = False
    """Two complementary masks a sequence, averaged (MIRROR, 3.1.2)."""
    summary: str = ""

    @property
    def mask_name(self) -> str:
        """The masking alone, such as `bernoulli` or `fixed_size_mirrored`: what a calibration depends on."""
        return f"{self.mask}_mirrored" if self.mirrored else self.mask

    @property
    def views(self) -> int:
        """Model rows a sequence costs in one step."""
        return 2 if self.mirrored else 1


METHODS: dict[str, MethodSpec] = {
    "standard": MethodSpec(summary="t uniform, independent masks: the baseline"),
    "p_pots": MethodSpec(density="calibrated", summary="t from the fitted optimal density, weight 1/p(t)"),
    "mirror": MethodSpec(mirrored=True, summary="two complementary masks, averaged"),
    "p_pots_mirror": MethodSpec(density="calibrated", mirrored=True, summary="P-POTS and MIRROR"),
    "strats": MethodSpec(strata="sqrt", summary="t stratified over the global batch, sqrt(B) strata"),
    "low_discrepancy": MethodSpec(strata="batch", summary="t stratified over the global batch, B strata"),
    "fixed_size": MethodSpec(mask="fixed_size", summary="exactly ceil(t n) masked tokens, weight 1/k"),
    "fixed_size_p_pots": MethodSpec(
        density="calibrated", mask="fixed_size", summary="fixed-size masks with a calibrated density"
    ),
    "fixed_size_p_pots_mirror": MethodSpec(
        density="calibrated", mask="fixed_size", mirrored=True, summary="fixed-size, calibrated and mirrored"
    ),
    "arm": MethodSpec(family="arm", summary="autoregressive next-token loss on the same data"),
}
