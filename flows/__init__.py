"""Prefect flows over `tasks` and `ecif`: the orchestration, and nothing else.

Prefect reads its settings when it is imported, so the defaults that ECIF wants are put into the environment here,
before any module below imports it. Whatever the user has set stays.
"""

from flows.environment import set_defaults

set_defaults()
