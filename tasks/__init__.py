"""Thin Prefect tasks over `ecif`: which work is one task, under which key it is cached, and how often it is tried."""
