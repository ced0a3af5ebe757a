"""Every policy there is. A new one becomes configurable, testable and comparable by its one line here."""

from bandit.linear import LinearThompson
from bandit.policies import Fixed, Random, Rules, StaticTier
from bandit.pooled import PooledThompson
from bandit.thompson import Thompson

AnyPolicy = Fixed | Random | StaticTier | Rules | Thompson | PooledThompson | LinearThompson
