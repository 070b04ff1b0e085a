"""`Unfit`: why a launch stays a plain kernel. No behaviour."""

__all__ = ["Unfit"]


class Unfit(Exception):  # noqa: N818 - not an error: another kernel is made
    """Why a launch cannot be a tensor-core kernel; its text is a sentence without a full stop."""
