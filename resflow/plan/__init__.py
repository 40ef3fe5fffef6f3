"""Plans: which samples form which batch at which shape, decided ahead of time as pure functions of values."""

from resflow.plan.batches import EpochPlan, PlannedBatch, RankPlan
from resflow.plan.blocks import BlockPlan
from resflow.plan.buckets import Buckets
from resflow.plan.budget import PixelBudget
from resflow.plan.cursor import Cursor
from resflow.plan.epoch import epoch_length, plan_epoch
from resflow.plan.index import Index
from resflow.plan.layout import Layout, lay_out
from resflow.plan.learn import learn_buckets
from resflow.plan.mixture import Mixture
from resflow.plan.online import OnlineBucketer
from resflow.plan.order import Grouping, group_samples
from resflow.plan.sampling import Sampling
from resflow.plan.schedule import (
    Constant,
    Cosine,
    Cyclic,
    Linear,
    RandomMultiScale,
    Schedule,
    Steps,
    as_schedule,
)
from resflow.plan.world import World

__all__ = [
    "BlockPlan",
    "Buckets",
    "Constant",
    "Cosine",
    "Cursor",
    "Cyclic",
    "EpochPlan",
    "Grouping",
    "Index",
    "Layout",
    "Linear",
    "Mixture",
    "OnlineBucketer",
    "PixelBudget",
    "PlannedBatch",
    "RandomMultiScale",
    "RankPlan",
    "Sampling",
    "Schedule",
    "Steps",
    "World",
    "as_schedule",
    "epoch_length",
    "group_samples",
    "lay_out",
    "learn_buckets",
    "plan_epoch",
]
