module "policies" {
  source         = "./policies"
  sources_bucket = var.sources_bucket
  sources_prefix = var.sources_prefix
  output_bucket  = var.output_bucket
  output_prefix  = var.output_prefix
  queue_arn      = aws_sqs_queue.arrivals.arn
}

locals {
  # Which policies a role has. A worker hears of nothing, and what hears reads and writes no shard.
  roles = {
    worker = ["sources", "output"]
    poller = ["queue"]
    doctor = ["output", "doctor"]
  }
  policies = {
    sources = module.policies.sources
    output  = module.policies.output
    doctor  = module.policies.doctor
    queue   = module.policies.queue
  }
  attached = { for pair in flatten([
    for role, names in local.roles : [for name in names : { role = role, policy = name }]
  ]) : "${pair.role}-${pair.policy}" => pair }
}

# Tasks of ECS and pods of EKS (by Pod Identity), of this account alone.
data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_iam_role" "role" {
  for_each           = local.roles
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "policy" {
  for_each = local.attached
  name     = each.value.policy
  role     = aws_iam_role.role[each.value.role].id
  policy   = local.policies[each.value.policy]
}
