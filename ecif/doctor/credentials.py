"""Which credentials requests are signed with, and where they come from; never the secret itself."""

from __future__ import annotations

import os
from typing import Any

from ecif.doctor.lines import Line

_PLACES = {
    "env": "the environment (AWS_ACCESS_KEY_ID)",
    "shared-credentials-file": "the shared file (~/.aws/credentials)",
    "custom-process": "the credential_process of ~/.aws/config",
    "config-file": "~/.aws/config",
    "assume-role": "a profile that assumes a role",
    "assume-role-with-web-identity": "a web identity (the pod's service account)",
    "sso": "single sign-on (~/.aws/sso)",
    "login": "aws login",
    "container-role": "the container's role (ECS, EKS)",
    "iam-role": "the machine's role (IMDS)",
}


def credentials(fs: Any) -> Line:
    """Where the chain finds credentials for an s3fs file system.

    The chain is botocore's: options, environment, profile and shared files, container, machine.
    """
    if fs.anon:
        return Line("ok", "credentials", "none: requests are not signed (anon)")
    if key := fs.key or fs.client_kwargs.get("aws_access_key_id"):
        temporary = ", temporary" if fs.token or fs.client_kwargs.get("aws_session_token") else ""
        return Line("ok", "credentials", f"access key {shortened(key)} of --storage-options{temporary}")
    import botocore.session
    from botocore.exceptions import BotoCoreError

    profile = fs.kwargs.get("profile") or os.environ.get("AWS_PROFILE")
    named = f", profile {profile!r}" if profile else ""
    try:
        found = botocore.session.Session(profile=profile).get_credentials()
    except BotoCoreError as error:
        text = f"cannot be taken{named}: {error}"
        return Line("problem", "credentials", text, "correct ~/.aws/config, AWS_PROFILE or the environment")
    if found is None:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; for public buckets "
        return Line("problem", "credentials", "none found", advice + """--storage-options '{"anon": true}'""")
    place = _PLACES.get(found.method, found.method)
    return Line("ok", "credentials", f"access key {shortened(found.access_key)} from {place}{named}")


def shortened(key: str) -> str:
    """The first four characters of an access key id, at most half of it: enough to tell keys apart."""
    return f"{key[: min(4, len(key) // 2)]}..."
