"""Which of its epochs a run keeps."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """What is known of the epochs so far.

    highest:     highest val_lowest of any
    kept_lowest: val_lowest of the kept one
    kept_clean:  val_clean of the kept one

    The kept epoch has the highest val_clean of those whose val_lowest is within one standard error of the highest: a
    few hundred attacked pictures tell epochs no finer apart, and the highest of many noisy figures is a lucky one.
    Source: the one-standard-error rule, Breiman et al., Classification and Regression Trees (1984), section 3.4.3.
    """

    highest: float = -1.0
    kept_lowest: float = -1.0
    kept_clean: float = -1.0

    def after(self, lowest: float, clean: float, attacked: int) -> tuple["Selection", bool]:
        """With one more epoch, and whether that is the one to keep.

        lowest, clean: its figures, from 0 to 1
        attacked:      pictures that `lowest` was measured on
        """
        highest = max(self.highest, lowest)
        floor = highest - math.sqrt(highest * (1 - highest) / attacked)
        keep = lowest >= floor and (self.kept_lowest < floor or clean >= self.kept_clean)
        if keep:
            return Selection(highest, lowest, clean), True
        return Selection(highest, self.kept_lowest, self.kept_clean), False
