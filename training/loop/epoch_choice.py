"""Choose which of its epochs a training run keeps."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochChoice:
    """The epoch that is kept so far.

    It has the highest val_clean of those whose val_lowest is within one standard error of the highest. A few hundred
    attacked pictures tell epochs no finer apart, and the highest of many noisy figures is a lucky one.

    Attributes:
        highest: Highest val_lowest of any epoch.
        kept_lowest: val_lowest of the kept one.
        kept_clean: val_clean of the kept one.

    Source: the one-standard-error rule, Breiman et al., Classification and Regression Trees (1984), section 3.4.3.
    """

    highest: float = -1.0
    kept_lowest: float = -1.0
    kept_clean: float = -1.0

    def after(self, lowest: float, clean: float, attacked: int) -> tuple["EpochChoice", bool]:
        """Return the updated choice and whether to keep this epoch.

        Args:
            lowest: The epoch's val_lowest, from 0 to 1.
            clean: Its val_clean, from 0 to 1.
            attacked: How many pictures `lowest` was measured on.
        """
        highest = max(self.highest, lowest)
        floor = highest - math.sqrt(highest * (1 - highest) / attacked)
        keep = lowest >= floor and (self.kept_lowest < floor or clean >= self.kept_clean)
        if keep:
            return EpochChoice(highest, lowest, clean), True
        return EpochChoice(highest, self.kept_lowest, self.kept_clean), False
