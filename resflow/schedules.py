"""Resolution as a function of progress: `rf.schedules.Linear(128, 224, epochs=16)` and the like."""

from resflow.geometry.ramp import Ramp
from resflow.plan.schedule import Constant, Cosine, Cyclic, Linear, RandomMultiScale, Schedule, Steps

__all__ = ["Constant", "Cosine", "Cyclic", "Linear", "Ramp", "RandomMultiScale", "Schedule", "Steps"]
