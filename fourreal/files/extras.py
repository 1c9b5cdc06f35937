"""Optional packages: how to install those of an extra, for sentences that say one is missing."""


def install_extra(extra: str) -> str:
    """The command that installs an extra of this project, and the one in a clone of it."""
    return f"pip install 'fourreal[{extra}]' (in a clone: pip install -e '.[{extra}]')"
