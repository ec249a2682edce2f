"""``python -m tests.support.quick_limits serve`` is ``earwitness serve`` whose limits towards the API hold for
``QUICK_LIMITS_SECONDS`` instead of a minute.
"""

import os
from functools import partial

import consumer.engines.choose as choose
from consumer.cli import main
from consumer.engines.openai_api import OpenAIEngine

if __name__ == "__main__":
    period_seconds = float(os.environ["QUICK_LIMITS_SECONDS"])
    choose.OpenAIEngine = partial(OpenAIEngine, period_seconds=period_seconds)  # type: ignore[attr-defined, assignment]
    main()
