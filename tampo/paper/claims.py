"""The paper's claims one by one: what was measured here, how certain it is, and a verdict about this scale.

A claim holds if its test rejects the opposite at 5 % after Holm's adjustment for the number of tests in the table. It
fails if the 95 % interval of the effect excludes even `MARGIN` of the published one: half of the effect would be
another claim. (If no number was published: if it excludes any effect in the claimed direction.) Otherwise the scale
could not have shown it ("not testable here": an effect as large as the paper's would be found less than `POWER` of the
time), or it could and did not ("cannot tell"). Claims of agreement (between seeds, of step times) have no such test:
their interval is compared with the claimed bound.

A verdict is about one scale. "fails" says that a claim does not hold there, not that the paper is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tampo.config import Params
from tampo.paper.experiments import ABLATION_SEEDS
from tampo.paper.tables import write_texts
from tampo.stats import Estimate, holm

LEVEL = 0.05
MARGIN = 0.5  # of the published effect: what is surely smaller than this is not what was claimed
POWER = 0.8
# The effect that a one-sided test at 5 % finds with 80 % power is 1.64 + 0.84 standard errors: in half-widths of a 95 %
# interval, which have 1.96.
_HALF_WIDTHS = (1.645 + 0.842) / 1.960
TIME_CLAIM = "TAMPO takes the same time"

HOLDS, FAILS, CANNOT_TELL, NOT_TESTABLE = "holds", "fails", "cannot tell", "not testable here"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the measured effect.

    Attributes:
        claim: What the paper claims.
        source: Where.
        statistic: What is measured here, with its unit.
        effect: The measured value.
        published: The paper's value of the statistic; None if it gives none.
        p_value: Probability of an effect at least as large if the claim is false; None if there is no test.
        bound: For claims of agreement, the upper bound of the statistic; None for the others.
        testable: Whether this scale could have shown it at all, where that does not follow from the interval.
        note: A remark for readers.
    """

    claim: str
    source: str
    statistic: str
    effect: Estimate
    published: float | None = None
    p_value: float | None = None
    bound: float | None = None
    testable: bool | None = None
    note: str = ""

    @property
    def detectable(self) -> float:
        """The smallest effect that would be found here with a probability of `POWER`; NaN without an interval."""
        return _HALF_WIDTHS * (self.effect.high - self.effect.low) / 2 if self._interval_is_known else float("nan")

    @property
    def could_show(self) -> bool | None:
        """Whether an effect as large as the paper's would be found here; None where the paper gives no number."""
        if self.testable is not None:
            return self.testable
        if not self._interval_is_known:
            return False
        if self.bound is not None:
            return True
        return None if self.published is None else self.detectable <= abs(self.published)

    @property
    def _interval_is_known(self) -> bool:
        return bool(np.isfinite(self.effect.low) and np.isfinite(self.effect.high))

    def verdict(self, adjusted: float) -> str:
        """The verdict, given the adjusted p-value (NaN for a claim of agreement)."""
        undecided = NOT_TESTABLE if self.could_show is False else CANNOT_TELL
        low, high = self.effect.low, self.effect.high
        if not self._interval_is_known:
            return undecided
        if self.bound is not None:
            if self.could_show is False:  # what is above the bound may be noise of the measurement alone
                return undecided
            return HOLDS if high <= self.bound else FAILS if low > self.bound else CANNOT_TELL
        if adjusted < LEVEL:
            return HOLDS
        return FAILS if high < MARGIN * (self.published or 0.0) else undecided


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """All claims with verdicts.

    Returns:
        Columns claim, source, statistic, paper, value, low, high, p, p_holm (NaN for claims of agreement), detectable
        (the smallest effect that would be found here), could_show ("yes", "no", or "" where the paper has no number),
        verdict, note.
    """
    tested = [claim.p_value is not None for claim in claims]
    table = pd.DataFrame([vars(claim) | vars(claim.effect) for claim in claims])
    table = table.rename(columns={"published": "paper", "p_value": "p"})
    table["p_holm"] = np.nan
    table.loc[tested, "p_holm"] = holm([claim.p_value for claim in claims if claim.p_value is not None])
    table["detectable"] = [claim.detectable if claim.bound is None else np.nan for claim in claims]
    table["could_show"] = [{True: "yes", False: "no", None: ""}[claim.could_show] for claim in claims]
    table["verdict"] = [claim.verdict(p) for claim, p in zip(claims, table["p_holm"], strict=True)]
    columns = ["claim", "source", "statistic", "paper", "value", "low", "high", "p", "p_holm", "detectable"]
    # Rounded, so that a reader of the file rounds as it is done here.
    return table[[*columns, "could_show", "verdict", "note"]].round(9)


def claims_caption(params: Params) -> str:
    """The caption of the table: how it was made, and how verdicts are reached."""
    count = len(params.seeds)
    seeds = "one training seed, which says nothing about other seeds" if count == 1 else f"{count} training seeds"
    few = f" ({ABLATION_SEEDS} for Tables 2, 3 and 5)" if count > ABLATION_SEEDS else ""
    return (
        f"The paper's claims at scale {params.scale}: {params.max_steps} steps of {params.prompts_per_step} x "
        f"{params.num_generations} rollouts, {seeds}{few}. p-values are one-sided, adjusted by Holm's method for the "
        f"number of tests. Holds: adjusted p below {LEVEL:g}. Fails: the 95 % interval excludes even half of the "
        f"paper's effect. Otherwise, not testable here: an effect as large as the paper's would be found with less "
        f"than {POWER:.0%} probability; else: cannot tell. Verdicts are about the scale {params.scale}, not about the "
        "paper's. Manifest: claims.manifest.json."
    )


def format_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `claims_table` for readers: one cell for the effect and its interval."""
    columns = zip(table["value"], table["low"], table["high"], strict=True)
    effect = [
        f"{value:.2f} ({low:.2f} to {high:.2f})" if np.isfinite(high - low) else f"{value:.2f}".replace("nan", "–")
        for value, low, high in columns
    ]
    return pd.DataFrame(
        {
            "Claim": table["claim"] + " (" + table["source"] + ")",
            "What is measured": table["statistic"],
            "Paper": ["" if pd.isna(value) else f"{value:.2g}" for value in table["paper"]],
            "Here, 95 % interval": effect,
            "p (Holm)": ["" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in table["p_holm"]],
            "Could this scale have shown it?": [
                ": ".join(part for part in (shown, f"from {size:.2g} on" if np.isfinite(size) else "") if part)
                for shown, size in zip(table["could_show"].fillna(""), table["detectable"], strict=True)
            ],
            "Verdict": table["verdict"],
            "Note": table["note"],
        }
    )


def brief_claims(table: pd.DataFrame) -> str:
    """The table of `claims_table` as Markdown with few columns: claim, the paper's value, ours, verdict."""
    shown = format_claims(table)[
        ["Claim", "Paper", "Here, 95 % interval", "Could this scale have shown it?", "Verdict"]
    ]
    return shown.to_markdown(index=False)


def write_claims(table: pd.DataFrame, folder: Path, caption: str) -> list[Path]:
    """Write the table of `claims_table` as claims.csv (all numbers), .md and .html into `folder`, each atomically."""
    shown = format_claims(table)
    texts = {
        "csv": table.to_csv(index=False, float_format="%.12g"),
        "md": f"{caption}\n\n{shown.to_markdown(index=False)}\n",
        "html": f"<p>{caption}</p>\n{shown.to_html(index=False, border=0, justify='left')}\n",
    }
    return write_texts(folder, "claims", texts)
