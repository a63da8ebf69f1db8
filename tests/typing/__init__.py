"""Code of users, for mypy --strict and pyright: it is checked, and run as any module."""
