"""How often samples come in an epoch: `DataLoader(sampling=rf.sampling.Balanced("label"))` and the like."""

from resflow.plan.sampling import Balanced, RepeatFactor, Replacement, Sampling, Weighted

__all__ = ["Balanced", "RepeatFactor", "Replacement", "Sampling", "Weighted"]
