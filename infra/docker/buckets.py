"""Make the buckets that ECIF_BUCKETS names, each with a rule that gives up the uploads of killed runs after three days.

For the store of compose.yaml; on AWS, Terraform makes them. Servers that do not know lifecycle rules keep pending
uploads until `ecif doctor --abort-uploads` removes them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import botocore.session
from botocore.exceptions import ClientError

RULE: dict[str, Any] = {
    "ID": "pending-uploads",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3},
}


def make(names: list[str], client: Any) -> None:
    """Make buckets that are not there yet, and set their rule."""
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in names:
        if name not in there:
            client.create_bucket(Bucket=name)
        try:
            client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": [RULE]})
        except ClientError as error:
            print(f"{name}: no lifecycle rule ({error}); remove pending uploads with ecif doctor", file=sys.stderr)


if __name__ == "__main__":
    make(os.environ["ECIF_BUCKETS"].split(), botocore.session.get_session().create_client("s3"))
